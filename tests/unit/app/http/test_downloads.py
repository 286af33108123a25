"""Content is served whole, by range, or not again."""

import hashlib
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from app.api.downloads import Content, send_content
from app.errors import ApiError, build_error_response
from app.storage import Storage

DATA = bytes(range(256)) * 10


@pytest.fixture
def client(tmp_path: Path) -> TestClient:
    storage = Storage(str(tmp_path))
    storage.write("files/one", [DATA])
    storage.write("files/none", [b""])
    digest = hashlib.sha256(DATA).hexdigest()

    async def app(scope, receive, send):
        request = Request(scope, receive)
        num_bytes = 0 if request.url.path == "/none" else len(DATA)
        content = Content("files" + request.url.path, "модель.bin", num_bytes, digest)
        try:
            response: Response = send_content(request, storage, content)
        except ApiError as error:
            response = build_error_response(error)
        await response(scope, receive, send)

    return TestClient(app)


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        pytest.param("bytes=0-0", 0, 1, id="first byte"),
        pytest.param("bytes=10-19", 10, 20, id="inside"),
        pytest.param("bytes=2550-", 2550, 2560, id="to the end"),
        pytest.param("bytes=-5", 2555, 2560, id="last bytes"),
        pytest.param("bytes=-99999", 0, 2560, id="more last bytes than there are"),
        pytest.param("bytes=2550-99999", 2550, 2560, id="end past the end"),
        pytest.param("BYTES = 1 - 2", 1, 3, id="case and blanks"),
    ],
)
def test_a_range_is_answered_with_exactly_its_bytes(client, header, start, end):
    answer = client.get("/one", headers={"range": header})
    assert answer.status_code == 206
    assert answer.content == DATA[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize(
    "header",
    ["bytes=2560-", "bytes=99999-100000", "bytes=-0"],
)
def test_a_range_outside_the_content_is_416_and_tells_the_size(client, header):
    answer = client.get("/one", headers={"range": header})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(DATA)}"
    assert answer.json()["error"]["code"] == "range_not_satisfiable"


@pytest.mark.parametrize(
    "header",
    ["bytes=0-1,5-6", "bytes=5-2", "lines=1-2", "bytes=a-b", "bytes=-", "", f"bytes=0-{'9' * 5000}"],
)
def test_a_range_that_is_not_one_range_of_bytes_gets_the_whole(client, header):
    answer = client.get("/one", headers={"range": header})
    assert (answer.status_code, answer.content) == (200, DATA)


def test_the_etag_is_the_digest_and_saves_the_download(client):
    etag = client.get("/one").headers["etag"]
    assert etag == f'"{hashlib.sha256(DATA).hexdigest()}"'
    again = client.get("/one", headers={"if-none-match": f'"other", {etag}'})
    assert (again.status_code, again.content) == (304, b"")


def test_a_range_of_another_version_gets_the_whole(client):
    etag = client.get("/one").headers["etag"]
    assert client.get("/one", headers={"range": "bytes=0-1", "if-range": etag}).status_code == 206
    assert client.get("/one", headers={"range": "bytes=0-1", "if-range": '"old"'}).status_code == 200


def test_head_tells_the_size_and_sends_nothing(client):
    answer = client.head("/one")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(DATA))
    assert answer.headers["accept-ranges"] == "bytes"


def test_empty_content_is_a_download_of_no_bytes(client):
    answer = client.get("/none")
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_name_in_any_script_survives_the_header(client):
    assert "filename*=utf-8''%D0%BC%D0%BE" in client.get("/one").headers["content-disposition"]
