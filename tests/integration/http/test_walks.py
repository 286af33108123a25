"""Walks over every operation of the OpenAPI document: without a key, with another owner's, with methods it has not."""

import re
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx2
import pytest

from app.api import schemas
from app.keys.scopes import Scope, find_needed_scope
from tests.integration.http.conftest import MINIMAL_JOB

OPEN_PATHS = {"/livez", "/readyz"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "MKCOL", "LOCK", "PURGE")
OF_THE_INSTALLATION = {"key_id", "project_id"}
"""What admins look after for all owners."""


@dataclass(frozen=True)
class Operation:
    """One operation: `body` is the document's example of its JSON body, None where it takes none."""

    method: str
    path: str
    body: object
    is_for_admins: bool

    @property
    def params(self) -> list[str]:
        return re.findall(r"{(\w+)}", self.path)

    def fill(self, names: dict[str, str]) -> str:
        return self.path.format(**names)


@pytest.fixture(scope="module")
def operations(server) -> list[Operation]:
    document = httpx2.get(f"{server.url}/openapi.json").json()
    found = [
        Operation(
            method.upper(),
            path,
            find_example(document, operation),
            find_needed_scope(method.upper(), path) is Scope.ADMIN,
        )
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method.upper() in METHODS
    ]
    assert len(found) > 25
    return found


def find_example(document: dict, operation: dict) -> object:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return None
    name = content["schema"].get("$ref", content["schema"].get("anyOf", [{}])[0].get("$ref")).rpartition("/")[2]
    return document["components"]["schemas"][name].get("examples", [{}])[0]


@pytest.fixture(scope="module")
def ana(server):
    with server.make_client("ana", ("jobs", "admin")) as client:
        yield client


@pytest.fixture(scope="module")
def names(server, ana, operations) -> dict[str, str]:
    """A real object of ana's for each parameter of a path. One that is not known here is made by the collection's own
    POST with the document's example; where that does not work it has to be prepared here."""
    job = server.start_job(ana)
    job.emit("step.started", "metrics")
    job.log(1, "a line", live=False)
    job.publish("fused/config.json", b"{}")
    file_id = ana.post("/v1/files", files={"file": ("a.jsonl", b'{"text": "a"}\n')}).json()["id"]
    preview = ana.post("/v1/previews", json={"config": MINIMAL_JOB["config"], "file": file_id})
    key = ana.post("/v1/keys", json={"owner": "ana", "name": "another"})
    names = {
        "job_id": job.id,
        "path": "fused/config.json",
        "file_id": file_id,
        "preview_id": preview.json()["id"],
        "key_id": key.json()["id"],
    }
    assert ana.put("/v1/secrets/anas-own-token", json={"value": "hf_" + "x" * 30}).status_code == 200
    names["name"] = "anas-own-token"
    webhook = ana.post("/v1/webhooks", json={"url": "https://hooks.example.com/finesmith"}).json()["id"]
    names["webhook_id"] = webhook
    names["delivery_id"] = ana.post(f"/v1/webhooks/{webhook}/test").json()["id"]
    bodies = {operation.path: operation.body for operation in operations if operation.method == "POST"}
    for operation in operations:
        for param in operation.params:
            if param not in names:
                collection = operation.path.partition("/{")[0]
                made = ana.post(collection, json=bodies.get(collection))
                assert made.status_code == 201, f"prepare an object for {{{param}}} of {operation.path}: {made.text}"
                names[param] = made.json()["id" if param.endswith("_id") else param]
    return names


def test_the_prepared_objects_are_there(ana, operations, names):
    """Else another owner's 404 would say nothing."""
    for operation in operations:
        if operation.method == "GET" and operation.params:
            answer = ana.get(operation.fill(names))
            assert answer.status_code == 200, (operation, answer.text)


def vary(target: str) -> list[str]:
    """The ways to write a path that a careless gate and a careful router could read differently."""
    head, _, last = target.rpartition("/")
    return [
        target,
        f"{target}/",
        f"/{target}",
        target.upper(),
        f"{head}/%{ord(last[0]):02X}{last[1:]}",
        f"{head}/x%2F..%2F{last}",
        f"{head}/./{last}",
        f"/livez/..{target}",
        f"/docs/..{target}",
        f"{target}?key=x",
        f"{target};x=y",
        f"{target}%00",
        f"{target}#/livez",
        f"http://127.0.0.1{target}",
    ]


def test_no_way_of_writing_an_operation_gets_by_without_a_key(server, operations, names):
    connection = HTTPConnection("127.0.0.1", urlsplit(server.url).port, timeout=10)
    walked = 0
    for operation in operations:
        if operation.path in OPEN_PATHS:
            continue
        for target in vary(operation.fill(names)):
            for method in {operation.method, "HEAD", "OPTIONS"}:
                connection.request(method, target)
                answer = connection.getresponse()
                content = answer.read()
                assert answer.status == 401, (method, target, answer.status, content)
                if method != "HEAD":
                    assert schemas.ErrorBody.model_validate_json(content).error.code == "invalid_api_key"
                walked += 1
    connection.close()
    assert walked > 900


def test_the_static_files_are_no_way_around_the_gate(server, operations, names):
    connection = HTTPConnection("127.0.0.1", urlsplit(server.url).port, timeout=10)
    for operation in operations:
        if operation.path in OPEN_PATHS:
            continue
        for prefix in ("/static/..", "/static/%2e%2e", "/docs/assets/../..", "/docs/assets/%2e%2e/%2e%2e"):
            connection.request(operation.method, prefix + operation.fill(names))
            answer = connection.getresponse()
            answer.read()
            assert answer.status in {401, 404, 405}, (operation, prefix)
    connection.close()


@pytest.mark.parametrize("scopes", [("jobs",), ("jobs", "admin")], ids=["user", "admin"])
def test_every_object_of_another_owner_is_not_there(server, ana, operations, names, scopes):
    # What a webhook's messages tell changes by itself: each is tried again in its time.
    paths = [op.fill(names) for op in operations if op.method == "GET" and op.params]
    readable = [path for path in paths if not path.endswith("/deliveries")]
    before = {path: ana.get(path).content for path in readable}
    with server.make_client("bob", scopes) as bob:
        for operation in operations:
            if not operation.params or ("admin" in scopes and OF_THE_INSTALLATION & set(operation.params)):
                continue
            if operation.method == "PUT":
                # It would make one of bob's own under the same name.
                continue
            path = operation.fill(names)
            answer = bob.request(operation.method, path, json=operation.body)
            if operation.is_for_admins and "admin" not in scopes:
                assert answer.status_code == 403, (operation, answer.text)
                continue
            assert answer.status_code == 404, (operation, answer.text)
            never = operation.fill({name: re.sub("[0-9a-z]$", "q", value) for name, value in names.items()})
            other = bob.request(operation.method, never, json=operation.body)
            assert other.status_code == 404
            error, nothing = answer.json()["error"], other.json()["error"]
            assert (error["code"], error["param"], error["type"]) == (
                nothing["code"],
                nothing["param"],
                nothing["type"],
            )
            head = bob.request("HEAD", path)
            assert head.status_code in {404, 405}
    assert {path: ana.get(path).content for path in readable} == before


def test_no_list_shows_anything_of_another_owner(server, operations, names):
    with server.make_client("bob") as bob:
        for operation in operations:
            if operation.method == "GET" and not operation.params and not operation.is_for_admins:
                text = bob.get(operation.path).text
                assert not [name for name in names.values() if name in text], operation
                after = bob.get(operation.path, params={"after": names["job_id"], "limit": 100}).text
                assert not [name for param, name in names.items() if param != "path" and name in after], operation


def test_a_method_that_a_path_has_not_is_a_405_that_names_those_it_has(ana, operations, names):
    known: dict[str, set[str]] = {}
    for operation in operations:
        known.setdefault(operation.path, set()).add(operation.method)
    for path, methods in known.items():
        for method in set(METHODS) - methods - {"HEAD"}:
            answer = ana.request(method, path.format(**names))
            if path == "/v1/jobs/validate" and method in {"GET", "DELETE"}:
                assert answer.status_code == 404, "it is read as a job's id"
                continue
            assert answer.status_code == 405, (method, path, answer.text)
            assert methods <= {name.strip() for name in answer.headers["allow"].split(",")} <= {*methods, "HEAD"}
            if method != "TRACE":
                schemas.ErrorBody.model_validate(answer.json())
            assert "x-request-id" in answer.headers
