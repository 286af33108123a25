"""Uploads, and what happens to requests that are not as they should be."""

import json

import httpx2
import pytest

from app.api import schemas

LINES = b'{"text": "a"}\n{"text": "b"}\n'


@pytest.fixture(scope="module")
def small_server(start_server):
    return start_server(max_body_bytes=2000, max_upload_bytes=100_000)


@pytest.fixture(scope="module")
def client(small_server):
    with small_server.make_client() as client:
        yield client


def post_raw(client, path, content, **headers):
    return client.post(path, content=content, headers={"content-type": "application/json", **headers})


def test_a_file_goes_in_and_comes_out_unchanged(client):
    made = client.post("/v1/files", files={"file": ("C:\\data\\train.jsonl", LINES)}, data={"purpose": "fine-tune"})
    assert made.status_code == 201
    file = made.json()
    schemas.File.model_validate(file)
    assert (file["filename"], file["bytes"], file["num_samples"]) == ("train.jsonl", len(LINES), 2)
    assert client.get(made.headers["location"]).json() == file
    assert client.get("/v1/files").json()["data"] == [file]
    content = client.get(f"/v1/files/{file['id']}/content")
    assert (content.content, content.headers["etag"]) == (LINES, f'"{file["sha256"]}"')
    assert client.get(f"/v1/files/{file['id']}/content", headers={"range": "bytes=0-3"}).content == LINES[:4]
    assert client.delete(f"/v1/files/{file['id']}").json()["deleted"] is True
    assert client.get(f"/v1/files/{file['id']}").status_code == 404


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b'{"a": 1}\nnot json\n', "line 2"),
        (b'{"a": 1}\n[1]\n', "line 2"),
    ],
)
def test_a_file_that_is_no_data_set_is_refused_with_the_line(client, content, said):
    answer = client.post("/v1/files", files={"file": ("a.jsonl", content)})
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"].lower()
    assert client.get("/v1/files").json()["data"] == []


def test_an_upload_without_a_file_or_with_another_purpose_says_so(client):
    assert client.post("/v1/files", data={"purpose": "fine-tune"}).json()["error"]["param"] == "file"
    answer = client.post("/v1/files", files={"file": ("a", LINES)}, data={"purpose": "fun"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "purpose")
    assert client.post("/v1/files", json={}).status_code == 422


def iterate_large(num_bytes):
    for _ in range(num_bytes // 1000):
        yield b" " * 1000


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_over_the_limit_is_refused(client, announced):
    body = json.dumps({"config": {"model_name_or_path": "x" * 3000}}).encode()
    answer = post_raw(client, "/v1/jobs", body if announced else iter([body[:1000], body[1000:]]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_over_the_limit_is_refused(client, announced):
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=b"}
    large = head + b" " * 300_000 + b"\r\n--b--\r\n"
    content = large if announced else iter([head, *iterate_large(300_000)])
    answer = client.post("/v1/files", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")


def test_a_body_over_the_limit_without_a_key_is_refused_in_our_shape(small_server):
    answer = httpx2.post(f"{small_server.url}/v1/jobs", content=b" " * 5000)
    assert answer.status_code in {401, 413}
    assert answer.json()["error"]["code"]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"{", "application/json", 400, "invalid_json"),
        (b'{"config": {"a": NaN}}', "application/json", 422, None),
        (b"\xff\xfe", "application/json", 400, None),
        (b"[]", "application/json", 422, "invalid_body"),
        (b"", "application/json", 422, "missing_body"),
        (b'{"config": {}}', "text/plain", 422, "invalid_body"),
        (b'{"config": ' + b"[" * 900 + b"]" * 900 + b"}", "application/json", 422, None),
        (b'{"config": {"max_steps": ' + b"9" * 100 + b"}}", "application/json", 422, None),
    ],
)
def test_a_body_that_is_no_submission_is_answered_in_our_shape(client, content, content_type, status, code):
    answer = client.post("/v1/jobs", content=content, headers={"content-type": content_type})
    assert answer.status_code == status, answer.text
    error = schemas.ErrorBody.model_validate(answer.json()).error
    assert code in (None, error.code)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/jobs", 405),
        ("GET", "/v1/jobs?limit=0", 422),
        ("GET", "/v1/jobs/x", 404),
    ],
)
def test_every_refusal_has_the_one_shape_and_an_id(client, method, path, status):
    answer = client.request(method, path)
    assert answer.status_code == status
    schemas.ErrorBody.model_validate(answer.json())
    assert answer.headers["x-request-id"].startswith("req-")
    assert status != 405 or "POST" in answer.headers["allow"]


@pytest.mark.parametrize(
    ("given", "is_kept"), [("my-id.1", True), ("bad id", False), ("x" * 200, False), ("-x", False)]
)
def test_a_sane_request_id_is_kept(client, given, is_kept):
    answer = client.get("/livez", headers={"x-request-id": given})
    assert (answer.headers["x-request-id"] == given) is is_kept


def test_ready_without_redis_is_degraded_and_still_200(small_server):
    answer = httpx2.get(f"{small_server.url}/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")


def test_a_surprise_is_a_500_that_tells_nothing_but_its_id(small_server, client):
    made = client.post("/v1/files", files={"file": ("a.jsonl", LINES)}).json()
    (small_server.settings.data_dir / "storage" / "files" / made["id"]).unlink()
    answer = client.get(f"/v1/files/{made['id']}/content")
    assert answer.status_code == 500
    error = answer.json()["error"]
    assert error["code"] == "internal_error"
    assert answer.headers["x-request-id"] in error["message"]
    assert "storage" not in answer.text


def test_a_request_cannot_forge_a_line_of_the_log_nor_put_a_key_into_it(small_server):
    job_id = "job-" + "0" * 26
    forged = f"/v1/jobs/{job_id}/x%0a%7b%22level%22%3a%22critical%22%7d?key=fsk_{'k' * 30}"
    with small_server.make_client() as client:
        client.get(forged, headers={"x-request-id": "line\\n", "authorization": f"Bearer fsk_{'w' * 30}"})
        client.get(f"/v1/jobs/{job_id}", headers={"x-request-id": "mine-1"})
        client.post("/v1/files", files={"file": ('a\n{"level": "critical"}\r.jsonl', b"no json")})
    text = (small_server.settings.data_dir / "api.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert "critical" not in {line["level"] for line in lines}
    assert "fsk_" not in text
    mine = next(line for line in lines if line.get("request_id") == "mine-1")
    assert (mine["event"], mine["job_id"], mine["status"], mine["logger"]) == (
        "request",
        job_id,
        404,
        "finesmith.request",
    )
