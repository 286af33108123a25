"""The OpenAPI document is complete, usable from the docs page, and changes only on purpose."""

import json
import os
from pathlib import Path

import pytest

from app.main import create_app
from app.settings import Settings

GOLDEN = Path(__file__).parents[3] / "golden" / "openapi.json"
OPEN_OPERATIONS = {"get_liveness", "get_readiness"}
METHODS = {"get", "post", "put", "patch", "delete"}


def build_document() -> dict:
    app = create_app(Settings(data_dir="/nonexistent"))
    # The version of the distribution is no part of the interface.
    app.version = "0"
    return app.openapi()


DOCUMENT = build_document()
OPERATIONS = {
    operation["operationId"]: operation
    for path in DOCUMENT["paths"].values()
    for method, operation in path.items()
    if method in METHODS
}


def test_the_document_is_the_frozen_one():
    """After a change on purpose: FINESMITH_UPDATE_GOLDEN=1 pytest tests/unit/app/http/test_openapi.py"""
    text = json.dumps(DOCUMENT, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if os.environ.get("FINESMITH_UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert json.loads(GOLDEN.read_text()) == DOCUMENT


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_says_what_it_does_with_an_example(name):
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert len(operation["description"]) > 40
    assert operation["tags"]
    success = next(answer for status, answer in operation["responses"].items() if status.startswith("2"))
    assert success["description"] != "Successful Response"
    contents = success["content"].values()
    is_binary = any(content.get("schema", {}).get("format") == "binary" for content in contents)
    assert is_binary or all("example" in content for content in contents)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_shows_its_errors_in_the_one_shape(name):
    answers = OPERATIONS[name]["responses"]
    errors = {
        status: answer for status, answer in answers.items() if status >= "4" and name + status != "get_readiness503"
    }
    assert "500" in errors
    for answer in errors.values():
        content = answer["content"]["application/json"]
        assert content["schema"]["$ref"].endswith("/ErrorBody")
        assert content["example"]["error"]["code"]


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_but_the_open_ones_declares_the_key(name):
    operation = OPERATIONS[name]
    assert operation.get("security") == (None if name in OPEN_OPERATIONS else [{"ApiKey": []}])
    assert ("401" in operation["responses"]) == (name not in OPEN_OPERATIONS)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_parameter_and_body_field_is_described(name):
    for parameter in OPERATIONS[name].get("parameters", []):
        assert parameter.get("description") or parameter["schema"].get("description"), parameter["name"]


def test_the_docs_page_offers_a_field_for_the_key_and_one_for_a_file():
    assert DOCUMENT["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    body = OPERATIONS["create_file"]["requestBody"]["content"]["multipart/form-data"]["schema"]["$ref"]
    file = DOCUMENT["components"]["schemas"][body.rpartition("/")[2]]["properties"]["file"]
    assert file["type"] == "string"
    assert file.get("format") == "binary" or file.get("contentMediaType") == "application/octet-stream"


def test_submitting_has_an_example_that_the_schema_takes():
    body = DOCUMENT["components"]["schemas"]["JobRequest"]
    assert set(body["examples"][0]) <= set(body["properties"])
