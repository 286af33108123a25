"""Submitting and steering jobs over HTTP."""

import json

import pytest

from app.api import schemas
from app.states import JobStatus
from tests.integration.http.conftest import MINIMAL_JOB

CONFIG = MINIMAL_JOB["config"]


@pytest.fixture(scope="module")
def client(server):
    with server.make_client() as client:
        yield client


def test_a_submitted_job_is_answered_whole_with_its_place(client):
    answer = client.post("/v1/jobs", json={**MINIMAL_JOB, "name": "first", "metadata": {"a": "b"}, "priority": 7})
    assert answer.status_code == 201
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    schemas.Job.model_validate(job)
    assert (job["status"], job["name"], job["metadata"], job["priority"]) == ("queued", "first", {"a": "b"}, 7)
    assert client.get(answer.headers["location"]).json() == job


def test_a_jobs_own_config_can_be_posted_again(client):
    config = client.post("/v1/jobs", json=MINIMAL_JOB).json()["config"]
    again = client.post("/v1/jobs", json={"config": config})
    assert (again.status_code, again.json()["config"]) == (201, config)


def test_tokens_are_never_answered(client):
    token = "hf_" + "s" * 34
    job = client.post("/v1/jobs", json={"config": {**CONFIG, "huggingface_hub_token": token}})
    assert job.json()["config"]["huggingface_hub_token"] is None
    for path in ("", "/events", "/logs"):
        assert token not in client.get(f"/v1/jobs/{job.json()['id']}{path}").text
    wrong = client.post("/v1/jobs", json={"config": {**CONFIG, "huggingface_hub_token": [token]}})
    assert wrong.status_code == 422
    assert token not in wrong.text


def test_the_same_key_with_the_same_body_makes_one_job(client):
    headers = {"idempotency-key": "once"}
    first = client.post("/v1/jobs", json=MINIMAL_JOB, headers=headers)
    second = client.post("/v1/jobs", json=MINIMAL_JOB, headers=headers)
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert (second.status_code, second.json()["id"]) == (201, first.json()["id"])
    assert second.headers["location"] == first.headers["location"]


def test_the_same_key_with_another_body_is_an_error(client):
    headers = {"idempotency-key": "twice"}
    client.post("/v1/jobs", json=MINIMAL_JOB, headers=headers)
    answer = client.post("/v1/jobs", json={**MINIMAL_JOB, "priority": 1}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "idempotency_conflict")


def test_all_problems_of_a_config_are_named(client):
    body = {"config": {**CONFIG, "lora_rnak": 4, "load_in_4bit": True, "load_in_8bit": True, "output_dir": "/etc"}}
    error = client.post("/v1/jobs", json=body).json()["error"]
    assert {detail["param"] for detail in error["details"]} >= {"config.lora_rnak", "config.output_dir"}
    assert "lora_rank" in error["details"][0]["message"] + error["details"][1]["message"]
    verdict = client.post("/v1/jobs/validate", json=body)
    assert verdict.status_code == 200
    assert (verdict.json()["valid"], verdict.json()["error"]) == (False, error)
    schemas.Validation.model_validate(verdict.json())


@pytest.mark.parametrize(
    "values",
    [
        *({"dataset_key": True}, {"trainer_key": False}, {"modules_to_save": "\ud800"}),
        *({"modules_to_save": ["\ud800"]}, {"raw_lora_target_modules": "local:\ud800"}),
    ],
)
def test_a_value_that_no_registry_and_no_answer_can_hold_is_a_problem(client, values):
    # Escapes, as JSON has them: the characters themselves could not be sent.
    body = json.dumps({"config": {**CONFIG, **values}})
    for path in ("/v1/jobs", "/v1/jobs/validate"):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code == (422 if path == "/v1/jobs" else 200)
        assert {detail["param"] for detail in answer.json()["error"]["details"]} >= {f"config.{next(iter(values))}"}


def test_validating_stores_nothing(client):
    before = client.get("/v1/jobs").json()
    verdict = client.post("/v1/jobs/validate", json=MINIMAL_JOB).json()
    assert (verdict["valid"], verdict["error"]) == (True, None)
    assert verdict["steps"] == ["prepare", "train"]
    assert client.get("/v1/jobs").json() == before


def test_a_list_is_walked_page_by_page(server):
    with server.make_client("walker") as walker:
        made = [walker.post("/v1/jobs", json=MINIMAL_JOB).json()["id"] for _ in range(5)]
        seen, after = [], None
        while True:
            page = walker.get("/v1/jobs", params={"limit": 2, **({"after": after} if after else {})}).json()
            schemas.ListOf[schemas.Job].model_validate(page)
            seen += [job["id"] for job in page["data"]]
            if not page["has_more"]:
                break
            after = seen[-1]
        assert seen == made[::-1]
        walker.post(f"/v1/jobs/{made[0]}/cancel")
        cancelled = walker.get("/v1/jobs", params={"status": "cancelled"}).json()["data"]
        assert [job["id"] for job in cancelled] == [made[0]]


def test_a_job_is_cancelled_retried_and_deleted(client):
    path = f"/v1/jobs/{client.post('/v1/jobs', json=MINIMAL_JOB).json()['id']}"
    too_early = client.delete(path)
    assert (too_early.status_code, too_early.json()["error"]["type"]) == (409, "conflict_error")
    assert client.post(f"{path}/retry").status_code == 409
    assert client.post(f"{path}/cancel").json()["status"] == JobStatus.CANCELLED
    assert client.post(f"{path}/retry").json()["status"] == JobStatus.QUEUED
    client.post(f"{path}/cancel")
    assert client.delete(path).json()["deleted"] is True
    assert client.get(path).status_code == 404


def test_artifacts_are_listed_and_downloaded_by_range(server, client):
    import hashlib

    from app.jobs.commands import NewArtifact
    from app.storage import Storage

    job = server.start_job(client)
    content = bytes(range(200))
    key = f"jobs/{job.id}/artifacts/fused/sub dir/model.safetensors"
    Storage(server.settings.storage_url).write(key, [content])
    digest = hashlib.sha256(content).hexdigest()
    path = "fused/sub dir/model.safetensors"
    server.jobs.record_artifacts(job.id, job.attempt, [NewArtifact("fused", path, len(content), digest, key)])
    listed = client.get(f"/v1/jobs/{job.id}/artifacts").json()
    schemas.ListOf[schemas.Artifact].model_validate(listed)
    assert [(item["path"], item["bytes"], item["sha256"]) for item in listed["data"]] == [(path, 200, digest)]
    assert "storage_key" not in listed["data"][0]
    url = f"/v1/jobs/{job.id}/artifacts/{path}"
    part = client.get(url, headers={"range": "bytes=100-"})
    assert (part.status_code, part.content, part.headers["etag"]) == (206, content[100:], f'"{digest}"')
    assert client.head(url).headers["content-length"] == "200"
    for wrong in ("fused/other", "../../../../api_key", "..%2f..%2fapi_key", "%2e%2e/api_key", ""):
        assert client.get(f"/v1/jobs/{job.id}/artifacts/{wrong}").status_code == 404


@pytest.mark.parametrize("types", [["metrics"] * 3 + ["progress"] * 2])
def test_events_and_metrics_are_lists_too(server, client, types):
    job = server.start_job(client)
    job.emit(*types)
    events = client.get(f"/v1/jobs/{job.id}/events", params={"limit": 4}).json()
    schemas.ListOf[schemas.Event].model_validate(events)
    assert ([event["seq"] for event in events["data"]], events["has_more"]) == ([1, 2, 3, 4], True)
    rest = client.get(f"/v1/jobs/{job.id}/events", params={"after": events["data"][-1]["id"]}).json()
    assert ([event["seq"] for event in rest["data"]], rest["has_more"]) == ([5, 6, 7], False)
    metrics = client.get(f"/v1/jobs/{job.id}/metrics").json()["data"]
    assert [event["type"] for event in metrics] == ["metrics"] * 3


def test_log_lines_are_a_list_too(server, client):
    job = server.start_job(client)
    job.log(1, "a", "b", "c", live=False)
    first = client.get(f"/v1/jobs/{job.id}/logs", params={"limit": 2}).json()
    schemas.ListOf[schemas.LogLine].model_validate(first)
    assert ([line["text"] for line in first["data"]], first["has_more"]) == (["a", "b"], True)
    rest = client.get(f"/v1/jobs/{job.id}/logs", params={"after": first["data"][-1]["id"]}).json()
    assert [line["id"] for line in rest["data"]] == ["1-3"]


def test_the_installation_shows_its_keys_schema_and_workers(server, client):
    registries = client.get("/v1/registries").json()
    assert "chat" in registries["data"]["datasets"]
    schema = client.get("/v1/config/schema").json()
    assert schema["properties"]["lora_rank"]["description"]
    assert client.get("/v1/config/schema", params={"key": "none"}).json()["error"]["param"] == "key"
    workers = client.get("/v1/workers").json()
    schemas.ListOf[schemas.Worker].model_validate(workers)
    assert server.worker_id in [worker["id"] for worker in workers["data"]]
