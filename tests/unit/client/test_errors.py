"""The tree of errors."""

import inspect
import pickle
import re

import finesmith
import pytest
from finesmith import Client, errors

from tests.unit.client import examples, fake_service
from tests.unit.client.fake_service import FakeService, Reply


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, finesmith.BadRequestError),
        (401, finesmith.AuthenticationError),
        (403, finesmith.PermissionDeniedError),
        (404, finesmith.NotFoundError),
        (409, finesmith.ConflictError),
        (413, finesmith.PayloadTooLargeError),
        (418, finesmith.APIStatusError),
        (422, finesmith.UnprocessableEntityError),
        (429, finesmith.RateLimitError),
        (500, finesmith.InternalServerError),
        (503, finesmith.InternalServerError),
    ],
)
def test_each_status_has_its_error(client: Client, service: FakeService, status: int, expected: type) -> None:
    service.on("GET", "/v1/jobs/job-1", fake_service.error(status, "Nope."))
    with pytest.raises(finesmith.APIStatusError, match="Nope") as caught:
        client.jobs.get("job-1")
    assert type(caught.value) is expected
    assert caught.value.status_code == status


def test_an_error_tells_all_that_the_service_said(client: Client, service: FakeService) -> None:
    details = [
        {"message": "lora_rnak is no field.", "param": "lora_rnak", "code": "unknown_field"},
        {"message": "max_steps must be positive.", "param": "max_steps", "code": "greater_than"},
    ]
    reply = fake_service.error(
        422, "lora_rnak is no field.", param="lora_rnak", code="unknown_field", type="invalid_request_error",
        details=details, headers={"retry-after": "7"},
    )  # fmt: skip
    service.on("POST", "/v1/jobs", reply)
    with pytest.raises(finesmith.UnprocessableEntityError) as caught:
        client.jobs.create(config={"lora_rnak": 8})
    error = caught.value
    assert (error.message, error.param, error.code) == ("lora_rnak is no field.", "lora_rnak", "unknown_field")
    assert (error.type, error.request_id, error.retry_after_seconds) == ("invalid_request_error", "req-7", 7.0)
    assert [detail.param for detail in error.details] == ["lora_rnak", "max_steps"]
    assert "max_steps must be positive." in str(error)
    assert str(error).count("lora_rnak is no field.") == 1


@pytest.mark.parametrize(
    "body",
    [b"<html>Bad  gateway\n" + b"x" * 5000, b"", b"[1]", b'{"detail": "Not Found"}', b'{"error": "text"}', b"\xff\xfe"],
)
def test_an_error_page_of_something_between_is_quoted(client: Client, service: FakeService, body: bytes) -> None:
    service.on("GET", "/v1/jobs/job-1", Reply(404, body=body))
    with pytest.raises(finesmith.NotFoundError) as caught:
        client.jobs.get("job-1")
    assert 0 < len(caught.value.message) <= 300


@pytest.mark.parametrize(
    "error",
    [
        finesmith.ConfigurationError("no key"),
        finesmith.APITimeoutError("late"),
        finesmith.RateLimitError(finesmith.APIProblem(429, "slow down", code="rate", retry_after_seconds=3.0)),
        finesmith.ChecksumMismatch("wrong"),
    ],
)
def test_errors_survive_pickling(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)


def test_the_error_of_a_failed_job_survives_pickling_without_its_client(client: Client, service: FakeService) -> None:
    failure = {"code": "invalid_data", "message": "Row 3 has no text.", "param": "dataset_key", "step": "prepare"}
    service.on("GET", "/v1/jobs/job-1", Reply(json=examples.job("failed", error=failure)))
    error = finesmith.JobFailed(client.jobs.get("job-1"))
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert "failed in step prepare: Row 3 has no text. (invalid_data, dataset_key)" in str(copy)
    with pytest.raises(finesmith.ConfigurationError, match="no client"):
        copy.job.refresh()


def test_the_drawn_tree_is_the_real_one() -> None:
    drawn, parents = {}, {}
    for line in inspect.getdoc(errors).splitlines():
        match = re.match(r"((?:│   |    )*(?:├── |└── )?)([A-Z]\w+)(?:\s|$)", line)
        if match and hasattr(errors, match[2]):
            depth = len(match[1]) // 4
            parents[depth] = match[2]
            drawn[match[2]] = parents.get(depth - 1)
    real = {
        name: item.__bases__[0].__name__
        for name, item in vars(errors).items()
        if inspect.isclass(item) and issubclass(item, finesmith.FinesmithError)
    }
    assert drawn == {**real, "FinesmithError": None}
