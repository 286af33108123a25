"""Nothing answers without a key but what is meant to, and nobody sees what is another owner's."""

import httpx2
import pytest

OPEN_OPERATIONS = {"/livez", "/readyz"}
ADMIN_AREAS = ("/v1/keys", "/v1/projects")
METHODS = {"get", "post", "put", "patch", "delete"}
JOB_BODY = {"json": {"config": {}}}
KEY_BODY = {"json": {"owner": "eve", "name": "eve"}}


@pytest.fixture(scope="module")
def operations(server) -> list[tuple[str, str]]:
    document = httpx2.get(f"{server.url}/openapi.json").json()
    found = [(method, path) for path, item in document["paths"].items() for method in item if method in METHODS]
    assert len(found) > 20
    return found


@pytest.fixture(scope="module")
def ana(server):
    with server.make_client("ana") as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        {"authorization": "Bearer fsk_wrong"},
        {"authorization": "Basic YTpi"},
        {"authorization": "Bearer \xff".encode("latin-1")},
    ],
)
def test_every_operation_wants_a_key(server, operations, headers):
    with httpx2.Client(base_url=server.url, headers=headers) as client:
        for method, path in operations:
            answer = client.request(method, path.replace("{", "").replace("}", ""))
            assert answer.status_code == (200 if path in OPEN_OPERATIONS else 401), (method, path)
            if answer.status_code == 401:
                assert answer.json()["error"]["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/v1", "/static", "/docs/x", "/metrics", "//livez", "/livez/", "/V1/jobs"]
)
def test_a_path_that_nobody_opened_wants_a_key_too(server, path):
    assert httpx2.get(f"{server.url}{path}").status_code == 401


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/", "<title>Finesmith</title>"),
        ("/docs", "swagger-ui-bundle.js"),
        ("/docs/assets/swagger-ui-bundle.js", "swagger"),
        ("/docs/assets/swagger-ui.css", ".swagger-ui"),
        ("/static/style.css", ":root"),
        ("/static/finesmith.svg", "<svg"),
        ("/openapi.json", '"openapi"'),
    ],
)
def test_pages_and_their_files_are_open(server, path, content):
    answer = httpx2.get(f"{server.url}{path}")
    assert answer.status_code == 200
    assert content in answer.text


def test_the_pages_load_nothing_from_elsewhere(server):
    for path in ("/", "/docs"):
        answer = httpx2.get(f"{server.url}{path}")
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text.replace(server.url, "")
        assert "https://" not in answer.text


def test_static_files_do_not_climb_out(server):
    for path in ("/static/../index.html", "/static/..%2findex.html", "/docs/assets/../__init__.py"):
        answer = httpx2.get(f"{server.url}{path}")
        assert answer.status_code in {401, 404}


def test_no_file_or_job_of_another_owner_can_be_named_in_a_job(server, ana):
    job = server.start_job(ana)
    file_id = ana.post("/v1/files", files={"file": ("a.jsonl", b'{"text": "a"}\n')}).json()["id"]
    with server.make_client("bob") as bob:
        assert bob.get("/v1/jobs").json()["data"] == []
        assert bob.get("/v1/files").json()["data"] == []
        assert bob.get("/v1/secrets").json()["data"] == []
        for field, value in (("training_file", file_id), ("validation_file", file_id), ("input_job", job.id)):
            answer = bob.post("/v1/jobs", json={"config": {"model_name_or_path": "a/b"}, field: value})
            assert answer.status_code == 422
            assert answer.json()["error"]["param"] == field
        answer = bob.post("/v1/previews", json={"config": {"model_name_or_path": "a/b"}, "file": file_id})
        assert (answer.status_code, answer.json()["error"]["param"]) == (422, "file")
    assert ana.get(f"/v1/jobs/{job.id}").json()["status"] == "running"


def test_keys_and_metrics_are_for_admins(server, ana):
    for method, path, body in (
        ("GET", "/v1/keys", {}),
        ("POST", "/v1/keys", KEY_BODY),
        ("DELETE", "/v1/keys/key-x", {}),
        ("GET", "/metrics", {}),
    ):
        answer = ana.request(method, path, **body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "insufficient_scope")


def test_an_admin_makes_lists_and_revokes_keys(server):
    with server.make_client("root", ("jobs", "admin")) as admin:
        made = admin.post("/v1/keys", json={"owner": "carl", "name": "laptop"})
        assert made.status_code == 201
        key = made.json()
        headers = {"authorization": f"Bearer {key['key']}"}
        assert httpx2.get(f"{server.url}/v1/jobs", headers=headers).status_code == 200
        listed = admin.get("/v1/keys").json()["data"]
        assert key["key"] not in str(listed)
        assert key["id"] in [item["id"] for item in listed]
        assert admin.delete(f"/v1/keys/{key['id']}").json() == {"id": key["id"], "object": "key", "deleted": True}
        assert httpx2.get(f"{server.url}/v1/jobs", headers=headers).status_code == 401
        assert admin.delete("/v1/keys/key-unknown").status_code == 404


def test_an_admin_sees_no_other_owners_jobs(server, ana):
    job = server.start_job(ana)
    with server.make_client("root", ("jobs", "admin")) as admin:
        assert admin.get(f"/v1/jobs/{job.id}").status_code == 404


def test_metrics_count_jobs_requests_and_streams(server):
    with server.make_client("root", ("admin",)) as admin:
        text = admin.get("/metrics").text
    assert 'finesmith_jobs{status="running"}' in text
    assert 'route="/v1/jobs/{job_id}"' in text
    assert "finesmith_sse_clients 0.0" in text


def test_metrics_are_open_where_the_installation_says_so(start_server):
    server = start_server(metrics_public=True)
    assert httpx2.get(f"{server.url}/metrics").status_code == 200
