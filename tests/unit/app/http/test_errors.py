"""Every error has one shape, names what is wrong, and never repeats a value."""

import errno
import json

import pytest
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from app.api.error_handlers import add_error_handlers, convert_validation_error
from app.api.feeds import parse_log_place
from app.api.schemas import ErrorBody, JobRequest
from app.api.translation import convert_store_error
from app.errors import ApiError, Unauthenticated, build_error_response, convert_http_exception
from app.jobs.errors import IdempotencyConflict, InvalidSubmission, InvalidTransition, JobNotFound, Problem


def find_errors(body: object) -> ApiError:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(JobRequest).validate_python(body)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()]
    return convert_validation_error(RequestValidationError(errors).errors())


def test_all_problems_are_named_and_the_first_one_leads():
    error = find_errors({"config": {}, "priority": 101, "stepps": [], "resources": {"gpus": -1}})
    assert error.status_code == 422
    assert [detail.param for detail in error.details] == ["resources.gpus", "priority", "stepps"]
    assert error.param == "resources.gpus"
    assert error.details[2].code == "unknown_key"


def test_a_wrong_value_is_not_repeated():
    error = find_errors({"config": {}, "training_file": {"hf_secret": "hf_verysecret"}})
    assert "verysecret" not in json.dumps([error.message, *[str(detail) for detail in error.details]])


def test_a_missing_field_is_named():
    error = find_errors({})
    assert (error.param, error.code) == ("config", "missing_field")


@pytest.mark.parametrize(
    ("error", "status", "code", "type_"),
    [
        (JobNotFound("job-x"), 404, "job_not_found", "not_found_error"),
        (InvalidTransition("it has ended"), 409, "invalid_transition", "conflict_error"),
        (IdempotencyConflict("k"), 422, "idempotency_conflict", "invalid_request_error"),
        (InvalidSubmission([Problem("bad", "config.x", "unknown_key")]), 422, "unknown_key", "invalid_request_error"),
    ],
)
def test_errors_of_the_core_have_their_status(error, status, code, type_):
    converted = convert_store_error(error)
    assert (converted.status_code, converted.code, converted.type) == (status, code, type_)


@pytest.mark.parametrize("status", [400, 404, 405, 415, 500, 501])
def test_what_the_framework_raises_gets_the_same_shape(status):
    response = build_error_response(convert_http_exception(HTTPException(status, headers={"allow": "GET"})))
    assert response.status_code == status
    assert response.headers["allow"] == "GET"
    ErrorBody.model_validate_json(response.body)


def test_a_single_problem_is_also_among_the_details():
    body = ErrorBody.model_validate_json(build_error_response(convert_store_error(JobNotFound("job-x"))).body).error
    assert [(detail.message, detail.param, detail.code) for detail in body.details] == [
        (body.message, "job_id", "job_not_found")
    ]


@pytest.mark.parametrize("place", ["abc", "-1", "1-", "1-x", "1-" + "9" * 26, "9" * 26 + "-1", "1-\u0663"])
def test_a_place_in_a_log_that_cannot_be_is_refused(place):
    with pytest.raises(ApiError) as caught:
        parse_log_place(place)
    assert (caught.value.status_code, caught.value.param) == (422, "after")


def test_a_missing_key_is_answered_with_the_scheme_to_use():
    response = build_error_response(Unauthenticated("This call needs an API key."))
    assert response.headers["www-authenticate"].startswith("Bearer")


def test_a_body_that_the_parser_gives_up_on_is_answered_with_the_reason():
    error = HTTPException(400, "There was an error parsing the body")
    error.__cause__ = RecursionError("maximum recursion depth exceeded")
    converted = convert_http_exception(error)
    assert converted.message == "The body cannot be read: maximum recursion depth exceeded."
    assert converted.code == "invalid_body"


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_full_disk_is_answered_as_such_wherever_it_is_met(is_wrapped):
    app = FastAPI()
    add_error_handlers(app)

    @app.post("/")
    def fill() -> None:
        error = OSError(errno.ENOSPC, "No space left on device")
        if is_wrapped:
            raise HTTPException(400, "There was an error parsing the body") from error
        raise error

    answer = TestClient(app).post("/")
    assert (answer.status_code, answer.json()["error"]["code"]) == (507, "storage_full")
