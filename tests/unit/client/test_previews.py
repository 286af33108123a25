"""Previews through the SDK: what is sent, what comes back, what is raised."""

from pathlib import Path

import finesmith
import pytest
from finesmith import Client

from app.api import examples as answers
from tests.unit.client import fake_service
from tests.unit.client.fake_service import DROPPED, FakeService, Reply

QUEUED = Reply(202, json=answers.QUEUED_PREVIEW)
DONE = Reply(json=answers.PREVIEW)
PREVIEW_ID = answers.PREVIEW["id"]


def test_a_preview_of_an_uploaded_file_is_asked_for(client: Client, service: FakeService) -> None:
    service.on("POST", "/v1/previews", DROPPED, QUEUED)
    preview = client.previews.create(config={"max_length": 512}, file="file-1", n=1)
    assert service.requests[-1].json() == {"config": {"max_length": 512}, "file": "file-1", "n": 1}
    assert (preview.id, preview.status, preview.is_finished, preview.result) == (PREVIEW_ID, "queued", False, None)


def test_a_local_file_is_uploaded_first(client: Client, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"messages": []}\n')
    service.on("POST", "/v1/files", Reply(201, json=answers.FILE))
    service.on("POST", "/v1/previews", QUEUED)
    client.previews.create(config={}, file=tmp_path / "rows.jsonl")
    assert service.requests[-1].json() == {"config": {}, "file": answers.FILE["id"], "n": 3}


@pytest.mark.parametrize("file", ["nowhere.jsonl", 7, None])
def test_what_is_no_data_set_is_refused_before_anything_is_sent(client: Client, service: FakeService, file) -> None:
    with pytest.raises((FileNotFoundError, TypeError), match="file"):
        client.previews.create(config={}, file=file)
    assert service.requests == []


def test_a_finished_preview_shows_tokens_and_counts(client: Client, service: FakeService) -> None:
    service.on("GET", f"/v1/previews/{PREVIEW_ID}", DONE)
    preview = client.previews.get(PREVIEW_ID, wait=30)
    assert service.requests[0].query == {"wait": "30"}
    assert preview.is_finished
    assert preview.result is not None
    [sample] = preview.result.samples
    assert [(token.id, token.text, token.is_target) for token in sample.tokens][-1] == (77, " Hello", True)
    assert (preview.result.num_rows, preview.result.errors[0].row, preview.result.extra) == (300, 17, {})


def test_a_failed_preview_tells_why_and_a_missing_one_is_raised(client: Client, service: FakeService) -> None:
    failed = {**answers.PREVIEW, "status": "failed", "result": None}
    error = {"code": "no_worker", "message": "Nobody.", "param": None}
    service.on("GET", f"/v1/previews/{PREVIEW_ID}", Reply(json={**failed, "error": error}))
    preview = client.previews.get(PREVIEW_ID)
    assert preview.error == finesmith.PreviewErrorInfo("no_worker", "Nobody.", None)
    service.on("GET", "/v1/previews/preview-x", fake_service.error(404))
    with pytest.raises(finesmith.NotFoundError):
        client.previews.get("preview-x")
    with pytest.raises(finesmith.ConfigurationError):
        client.previews.get("../jobs")


def test_the_schema_of_a_plugins_config_is_asked_for_by_its_key(client: Client, service: FakeService) -> None:
    service.on("GET", "/v1/config/schema", Reply(json={"title": "Config"}))
    assert client.config_schema() == {"title": "Config"}
    client.config_schema("mine")
    assert [request.query for request in service.requests] == [{}, {"config_key": "mine"}]
