"""Data sets on the service."""

import hashlib
import tracemalloc
from pathlib import Path

import finesmith
import pytest
from finesmith import Client

from tests.unit.client import fake_service
from tests.unit.client.fake_service import DROPPED, FakeService, Reply

ROWS = b'{"text": "a"}\n{"text": "b"}\n'
FILE = {"id": "file-1", "object": "file", "bytes": len(ROWS), "created_at": 1.0, "filename": "rows.jsonl",
        "purpose": "fine-tune", "sha256": hashlib.sha256(ROWS).hexdigest(), "num_samples": 2}  # fmt: skip


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(ROWS)
    return path


def test_an_upload_sends_name_purpose_and_content(client: Client, service: FakeService, rows: Path) -> None:
    service.on("POST", "/v1/files", Reply(201, json=FILE))
    file = client.files.upload(rows)
    assert (file.id, file.filename, file.bytes, file.num_samples) == ("file-1", "rows.jsonl", len(ROWS), 2)
    body = service.requests[0].body
    assert ROWS in body
    assert b'name="purpose"\r\n\r\nfine-tune\r\n' in body
    assert b'name="file"; filename="rows.jsonl"' in body


def test_a_dropped_upload_is_sent_again_from_its_beginning(client: Client, service: FakeService, rows: Path) -> None:
    service.on("POST", "/v1/files", DROPPED, fake_service.error(503), Reply(201, json=FILE))
    assert client.files.upload(str(rows)).id == "file-1"
    assert len(service.requests) == 3
    assert all(ROWS in request.body for request in service.requests)
    assert len({request.headers["idempotency-key"] for request in service.requests}) == 1


def test_an_upload_never_lies_in_memory(client: Client, service: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    service.on("POST", "/v1/files", fake_service.error(413, "Too large."))
    tracemalloc.start()
    with pytest.raises(finesmith.PayloadTooLargeError):
        client.files.upload(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert int(service.requests[0].headers["content-length"]) > 64 << 20
    assert peak_bytes < 16 << 20


def test_a_file_that_is_not_there_is_an_os_error(client: Client, service: FakeService, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        client.files.upload(tmp_path / "none.jsonl")
    assert service.requests == []


def test_a_bad_line_is_an_error_that_names_it(client: Client, service: FakeService, rows: Path) -> None:
    service.on("POST", "/v1/files", fake_service.error(400, "Line 2 is not JSON.", param="file", code="invalid_json"))
    with pytest.raises(finesmith.BadRequestError, match="Line 2") as caught:
        client.files.upload(rows)
    assert caught.value.code == "invalid_json"


def test_a_list_walks_over_its_pages(client: Client, service: FakeService) -> None:
    pages = [[{"id": "file-1"}, {"id": "file-2"}], [{"id": "file-3"}]]
    service.on("GET", "/v1/files", fake_service.listing(pages[0], has_more=True), fake_service.listing(pages[1]))
    page = client.files.list(limit=2)
    assert len(service.requests) == 1
    assert [file.id for file in page.data] == ["file-1", "file-2"]
    assert [file.id for file in page] == ["file-1", "file-2", "file-3"]
    assert [request.query for request in service.requests] == [{"limit": "2"}, {"limit": "2", "after": "file-2"}]


def test_an_empty_page_that_promises_more_ends_the_walk(client: Client, service: FakeService) -> None:
    service.on("GET", "/v1/files", fake_service.listing([], has_more=True))
    assert list(client.files.list()) == []
    assert len(service.requests) == 1


def test_a_file_is_deleted(client: Client, service: FakeService) -> None:
    service.on("DELETE", "/v1/files/file-1", Reply(json={"id": "file-1", "object": "file", "deleted": True}))
    client.files.delete("file-1")
    assert len(service.requests) == 1


def test_a_file_is_downloaded_into_a_folder_under_its_own_name(
    client: Client, service: FakeService, tmp_path: Path
) -> None:
    service.on("GET", "/v1/files/file-1", Reply(json=FILE))
    service.on("GET", "/v1/files/file-1/content", fake_service.ranged(ROWS))
    target = client.files.download("file-1", tmp_path)
    assert target == tmp_path / "rows.jsonl"
    assert target.read_bytes() == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize(("name", "kept"), [("../../etc/passwd", "passwd"), ("C:\\temp\\rows.jsonl", "rows.jsonl")])
def test_a_file_s_name_leads_nowhere_else(
    client: Client, service: FakeService, tmp_path: Path, name: str, kept: str
) -> None:
    service.on("GET", "/v1/files/file-1", Reply(json={**FILE, "filename": name}))
    service.on("GET", "/v1/files/file-1/content", fake_service.ranged(ROWS))
    assert client.files.download("file-1", tmp_path) == tmp_path / kept


def test_a_name_that_is_none_asks_for_a_path(client: Client, service: FakeService, tmp_path: Path) -> None:
    service.on("GET", "/v1/files/file-1", Reply(json={**FILE, "filename": "a/.."}))
    service.on("GET", "/v1/files/file-1/content", fake_service.ranged(ROWS))
    with pytest.raises(finesmith.ConfigurationError, match="path of a file"):
        client.files.download("file-1", tmp_path)
    assert client.files.download("file-1", tmp_path / "mine.jsonl").read_bytes() == ROWS
