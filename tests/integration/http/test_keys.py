"""Keys over HTTP: what each scope allows, how often, how much, and how one is replaced."""

import socket

import httpx2
import pytest

from app.keys.views import KeyLimits
from tests.integration.http.conftest import MINIMAL_JOB

METHODS = {"get", "post", "put", "patch", "delete"}
OPEN_OPERATIONS = {"/livez", "/readyz"}
ADMIN_AREAS = ("/v1/keys", "/v1/projects", "/metrics")
ROW = b'{"text": "a"}\n'
UNKNOWN_KEY = "fsk_" + "A" * 43


def make_client(server, *scopes: str, owner: str = "ana", limits: KeyLimits | None = None) -> httpx2.Client:
    _, key = server.keys.create(owner, "test", scopes or ("submit",), limits=limits)
    return httpx2.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=30)


def walk(server):
    for path, item in httpx2.get(f"{server.url}/openapi.json").json()["paths"].items():
        for method in METHODS & set(item):
            if path not in OPEN_OPERATIONS:
                yield method, path


def needs(method: str, path: str) -> str:
    """What the issue says, told a second time in other words."""
    if path.startswith(ADMIN_AREAS):
        return "admin"
    return "read" if method == "get" or path == "/v1/jobs/validate" else "submit"


@pytest.mark.parametrize(
    ("scope", "allowed"), [("read", {"read"}), ("submit", {"read", "submit"}), ("jobs", {"read", "submit"})]
)
def test_a_key_gets_403_for_what_its_scope_does_not_allow_and_for_nothing_else(server, scope, allowed):
    refused = 0
    with make_client(server, scope) as client:
        for method, path in walk(server):
            needed = needs(method, path)
            answer = client.request(method, path.replace("{", "").replace("}", ""))
            if needed in allowed:
                assert answer.status_code != 403, (method, path)
                continue
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (403, "insufficient_scope"), (method, path)
            assert f"`{needed}`" in error["message"]
            refused += 1
    assert refused >= (12 if scope == "read" else 8)


def test_an_admin_may_do_everything_with_its_own_projects_jobs(server):
    with make_client(server, "admin", owner="root") as client:
        for method, path in walk(server):
            assert client.request(method, path.replace("{", "").replace("}", "")).status_code != 403, (method, path)
        assert client.post("/v1/jobs", json=MINIMAL_JOB).status_code == 201


def announce_upload(server, client: httpx2.Client, *, num_bytes: int) -> str:
    """The first line that the server answers to the head of an upload whose client waits before it sends the body."""
    head = (
        f"POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: {client.headers['authorization']}\r\n"
        f"content-type: multipart/form-data; boundary=b\r\ncontent-length: {num_bytes}\r\nexpect: 100-continue\r\n\r\n"
    )
    address = server.url.removeprefix("http://").split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=30) as connection:
        connection.sendall(head.encode())
        return connection.makefile("rb").readline().decode().strip()


def test_an_upload_that_is_refused_is_refused_before_its_body_is_sent(server):
    limits = KeyLimits(max_upload_bytes=1000)
    with (
        make_client(server, "read") as reader,
        make_client(server, limits=limits) as small,
        make_client(server) as any_,
    ):
        assert announce_upload(server, reader, num_bytes=1 << 30) == "HTTP/1.1 403 Forbidden"
        assert "413" in announce_upload(server, small, num_bytes=1 << 30)
        assert announce_upload(server, any_, num_bytes=1 << 30) == "HTTP/1.1 100 Continue"


def test_a_key_over_its_limit_is_told_when_to_come_again(server):
    with make_client(server, limits=KeyLimits(max_requests_per_minute=3)) as client, make_client(server) as other:
        assert [client.get("/v1/jobs").status_code for _ in range(3)] == [200, 200, 200]
        answer = client.get("/v1/jobs")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["type"]) == (429, "rate_limited", "rate_limit_error")
        assert 1 <= int(answer.headers["retry-after"]) <= 20
        assert "3 requests a minute" in error["message"]
        assert [other.get("/v1/jobs").status_code for _ in range(6)] == [200] * 6


@pytest.fixture(scope="module")
def limited_server(start_server):
    return start_server(requests_per_minute=4, failed_authentications_per_minute=3)


def test_the_installation_has_a_limit_for_keys_without_their_own(limited_server):
    with make_client(limited_server) as client:
        assert [client.get("/v1/jobs").status_code for _ in range(5)] == [200, 200, 200, 200, 429]
    with make_client(limited_server, limits=KeyLimits(max_requests_per_minute=6)) as client:
        assert [client.get("/v1/jobs").status_code for _ in range(6)] == [200] * 6


@pytest.mark.parametrize("announced", [True, False])
def test_an_upload_over_the_keys_limit_is_refused(server, announced):
    head = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    large = head + ROW * 40_000 + b"\r\n--b--\r\n"
    content = large if announced else iter([large[:100_000], large[100_000:]])
    headers = {"content-type": "multipart/form-data; boundary=b"}
    with make_client(server, limits=KeyLimits(max_upload_bytes=1000)) as client:
        answer = client.post("/v1/files", content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "file_too_large")
        assert "1000 bytes" in answer.json()["error"]["message"]
        # Within the room for the multipart's own bytes the file itself is counted.
        answer = client.post("/v1/files", files={"file": ("a.jsonl", ROW * 100)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "file_too_large")
        assert client.post("/v1/files", files={"file": ("a.jsonl", ROW)}).status_code == 201


def test_who_guesses_keys_has_to_wait_and_known_keys_go_on(limited_server):
    with make_client(limited_server) as known, httpx2.Client(base_url=limited_server.url) as guesser:
        assert known.get("/v1/jobs").status_code == 200
        statuses = []
        for number in range(5):
            headers = {"authorization": f"Bearer {UNKNOWN_KEY[:-1]}{number}"}
            answer = guesser.get("/v1/jobs", headers=headers)
            statuses.append(answer.status_code)
        assert statuses == [401, 401, 401, 429, 429]
        assert answer.json()["error"]["code"] == "too_many_failures"
        assert int(answer.headers["retry-after"]) >= 1
        assert known.get("/v1/jobs").status_code == 200
        # What is no key asks the database nothing, so that it needs no limit.
        assert guesser.get("/v1/jobs", headers={"authorization": "Bearer fsk_wrong"}).status_code == 401


def test_a_key_is_replaced_by_a_new_one_over_http(server):
    with make_client(server, "admin", owner="root") as admin:
        body = {"owner": "carl", "name": "laptop", "scopes": ["read"], "max_requests_per_minute": 50}
        old = admin.post("/v1/keys", json={**body, "max_upload_bytes": 7}).json()
        new = admin.post(f"/v1/keys/{old['id']}/rotate", json={"overlap_seconds": 600}).json()
        same = ("owner", "name", "scopes", "max_requests_per_minute", "max_upload_bytes")
        assert {name: new[name] for name in same} == {name: old[name] for name in same}
        listed = {key["id"]: key for key in admin.get("/v1/keys").json()["data"]}
        assert listed[old["id"]]["replaced_by"] == new["id"]
        for key in (old["key"], new["key"]):
            assert httpx2.get(f"{server.url}/v1/jobs", headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert admin.post(f"/v1/keys/{old['id']}/rotate").status_code == 409
        assert admin.post(f"/v1/keys/{new['id']}/rotate").status_code == 201
        headers = {"authorization": f"Bearer {new['key']}"}
        assert httpx2.get(f"{server.url}/v1/jobs", headers=headers).status_code == 401
        assert admin.post("/v1/keys/key-unknown/rotate").status_code == 404
        assert admin.post(f"/v1/keys/{new['id']}/rotate", json={"overlap_seconds": 1e9}).status_code == 422
        assert admin.post("/v1/keys", json={**body, "scopes": ["write"]}).status_code == 422


def test_an_admin_makes_and_changes_projects(server):
    with make_client(server, "admin", owner="root") as admin:
        made = admin.post("/v1/projects", json={"id": "team", "name": "The team", "max_running_jobs": 2})
        assert (made.status_code, made.headers["location"]) == (201, "/v1/projects/team")
        assert admin.post("/v1/projects", json={"id": "team"}).status_code == 409
        changed = admin.patch("/v1/projects/team", json={"max_running_jobs": None, "max_queued_jobs": 9}).json()
        assert (changed["name"], changed["max_queued_jobs"], changed["max_running_jobs"]) == ("The team", 9, None)
        assert admin.get("/v1/projects/team").json() == changed
        for body, param in (
            ({"name": None}, "name"),
            ({"max_queued_jobs": -1}, "max_queued_jobs"),
            ({"id": "x"}, "id"),
        ):
            answer = admin.patch("/v1/projects/team", json=body)
            assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)
        assert admin.get("/v1/projects/nobody").status_code == 404
        ids = [project["id"] for project in admin.get("/v1/projects?limit=100").json()["data"]]
        assert {"team", "root"} <= set(ids)
        assert admin.get(f"/v1/projects?limit=1&after={ids[0]}").json()["data"][0]["id"] == ids[1]


def test_secrets_are_written_and_never_read_over_http(server):
    value = "hf_" + "v" * 34
    with make_client(server, owner="sue") as client, make_client(server, "read", owner="sue") as reader:
        made = client.put("/v1/secrets/hub", json={"value": value}).json()
        assert set(made) == {"id", "object", "name", "created_at", "updated_at"}
        assert reader.get("/v1/secrets/hub").json() == made
        assert [secret["name"] for secret in reader.get("/v1/secrets").json()["data"]] == ["hub"]
        body = {**MINIMAL_JOB, "config": {**MINIMAL_JOB["config"], "huggingface_hub_token": "secret:hub"}}
        job = client.post("/v1/jobs", json=body)
        assert job.json()["config"]["huggingface_hub_token"] == "secret:hub"
        body["config"]["huggingface_hub_token"] = "secret:hup"
        error = reader.post("/v1/jobs/validate", json=body).json()["error"]
        assert (error["code"], error["param"]) == ("unknown_secret", "config.huggingface_hub_token")
        assert error["message"].endswith("known are hub")
        assert client.put("/v1/secrets/hub", json={"value": "short"}).status_code == 422
        assert client.put("/v1/secrets/a%20b", json={"value": value}).json()["error"]["param"] == "name"
        assert client.put("/v1/secrets/hub", json={"value": "ü" * 9}).json()["error"]["param"] == "value"
        assert client.delete("/v1/secrets/hub").json() == {"id": "hub", "object": "secret", "deleted": True}
        assert client.get("/v1/secrets/hub").status_code == 404
