"""Previews over HTTP; the test plays the worker."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from app.api.examples import PREVIEW
from app.jobs.views import JobError
from tests.integration.http.conftest import LiveServer

CONFIG = {"model_name_or_path": "owner/name"}
TOKEN = "hf_" + "t" * 34
NUM_WAITERS = 45
"""More than the server has threads."""


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[httpx2.Client]:
    with server.make_client() as client:
        yield client


@pytest.fixture(scope="module")
def file_id(client: httpx2.Client) -> str:
    return upload(client)


def upload(client: httpx2.Client, *rows: dict) -> str:
    content = "\n".join(json.dumps(row) for row in rows or [{"messages": []}])
    answer = client.post("/v1/files", files={"file": ("rows.jsonl", content)})
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def ask(client: httpx2.Client, file_id: str, **config: object) -> str:
    answer = client.post("/v1/previews", json={"config": {**CONFIG, **config}, "file": file_id, "n": 1})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/previews/{answer.json()['id']}"
    return answer.json()["id"]


def finish_all(server: LiveServer) -> None:
    while claim := server.previews.claim(server.worker_id):
        server.previews.succeed(claim.preview_id, claim.attempt, PREVIEW["result"])


def test_a_preview_is_asked_for_waited_for_and_answered(server, client, file_id) -> None:
    asked = client.post("/v1/previews", json={"config": {**CONFIG, "huggingface_hub_token": TOKEN}, "file": file_id})
    preview = asked.json()
    assert (preview["object"], preview["status"], preview["n"]) == ("preview", "queued", 3)
    assert (preview["config"]["dataset_key"], preview["result"]) == ("chat", None)
    assert TOKEN not in asked.text

    path = f"/v1/previews/{preview['id']}"
    started_at = time.monotonic()
    assert client.get(path, params={"wait": 0.2}).json()["status"] == "queued"
    assert 0.2 <= time.monotonic() - started_at < 5

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, path, params={"wait": 30})
        finish_all(server)
        answered = waiting.result().json()
    assert answered["status"] == "succeeded"
    assert answered["result"] == PREVIEW["result"]
    assert time.monotonic() - started_at < 20
    # One that is over is answered at once.
    assert client.get(path, params={"wait": 60}).json() == answered


def test_a_preview_that_failed_tells_why(server, client, file_id) -> None:
    preview_id = ask(client, file_id)
    claim = server.previews.claim(server.worker_id)
    server.previews.fail(preview_id, claim.attempt, JobError("model_not_loadable", "no tokenizer", param="x"))
    answered = client.get(f"/v1/previews/{preview_id}", params={"wait": 5}).json()
    assert (answered["status"], answered["result"]) == ("failed", None)
    assert answered["error"] == {"code": "model_not_loadable", "message": "no tokenizer", "param": "x"}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": -1}, "n"),
        ({"n": 101}, "n"),
        ({"n": 10**30}, "n"),
        ({"n": "three"}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": None}, "n"),
        ({"file": None}, "file"),
        ({"file": ["x"]}, "file"),
        ({"file": ""}, "file"),
        ({"file": "file-nope"}, "file"),
        ({"file": "x" * 65}, "file"),
        ({"file": "\ud800"}, "file"),
        ({"config": None}, "config"),
        ({"config": []}, "config"),
        ({"config": {"lora_rang": 1}}, "config.lora_rang"),
        ({"config": {**CONFIG, "collator_key": "lmm"}}, "config.collator_key"),
        ({"config": {**CONFIG, "max_length": 0}}, "config.max_length"),
        ({"config": {**CONFIG, "config_key": "mine"}}, "config.config_key"),
        ({"training_file": "file-x"}, "training_file"),
    ],
)
def test_what_cannot_be_rendered_is_refused_naming_the_field(client, file_id, change, param) -> None:
    body = json.dumps({"config": CONFIG, "file": file_id, "n": 1, **change})
    answer = client.post("/v1/previews", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    if answer.status_code == 422:
        assert answer.json()["error"]["param"] == param, answer.text


def test_others_see_neither_file_nor_preview(server, client, file_id) -> None:
    preview_id = ask(client, file_id)
    with server.make_client("bob") as other:
        refused = other.post("/v1/previews", json={"config": CONFIG, "file": file_id})
        assert (refused.status_code, refused.json()["error"]["code"]) == (422, "file_not_found")
        for path in (preview_id, "preview-nope", "job-x", "preview-" + "0" * 26):
            for params in ({}, {"wait": 5}):
                missing = other.get(f"/v1/previews/{path}", params=params)
                assert (missing.status_code, missing.json()["error"]["code"]) == (404, "preview_not_found")
    finish_all(server)


@pytest.mark.parametrize("wait", ["61", "-1", "nan", "inf", "long", ""])
def test_a_wait_out_of_bounds_is_refused(client, file_id, wait) -> None:
    answer = client.get("/v1/previews/preview-x", params={"wait": wait})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "wait"


def test_a_key_is_needed(server) -> None:
    with httpx2.Client(base_url=server.url) as anonymous:
        assert anonymous.post("/v1/previews", json={}).status_code == 401
        assert anonymous.get("/v1/previews/preview-x").status_code == 401


def test_a_file_may_be_deleted_while_its_preview_waits(server, client) -> None:
    file_id = upload(client)
    preview_id = ask(client, file_id)
    assert client.delete(f"/v1/files/{file_id}").status_code == 200
    finish_all(server)
    answered = client.get(f"/v1/previews/{preview_id}").json()
    assert (answered["status"], answered["error"]["code"]) == ("failed", "file_not_found")


def test_more_waiters_than_threads_hold_nobody_up(server, client, file_id) -> None:
    preview_id = ask(client, file_id)
    with server.make_client() as many, ThreadPoolExecutor(NUM_WAITERS) as pool:
        waiting = [pool.submit(many.get, f"/v1/previews/{preview_id}", params={"wait": 25}) for _ in range(NUM_WAITERS)]
        slowest = max(measure(lambda: client.get("/livez")) for _ in range(20))
        finish_all(server)
        finished_at = time.monotonic()
        statuses = {one.result().json()["status"] for one in waiting}
    assert statuses == {"succeeded"}
    assert time.monotonic() - finished_at < 10
    assert slowest < 2.0


def test_an_owner_with_too_many_unfinished_ones_is_told_to_wait(server) -> None:
    with server.make_client("cyd") as client:
        file_id = upload(client)
        answers = [client.post("/v1/previews", json={"config": CONFIG, "file": file_id}) for _ in range(21)]
    assert [answer.status_code for answer in answers] == [202] * 20 + [429]
    assert answers[-1].json()["error"]["code"] == "too_many_previews"
    assert int(answers[-1].headers["retry-after"]) > 0
    finish_all(server)


def measure(call: Callable[[], object]) -> float:
    started_at = time.monotonic()
    call()
    return time.monotonic() - started_at
