"""What is posted for a job, and how jobs are looked up and steered."""

from pathlib import Path

import finesmith
import pytest
from finesmith import Client, File, Resources

from tests.unit.client import examples, fake_service
from tests.unit.client.fake_service import FakeService, Reply

CREATED = Reply(201, json=examples.job("queued"))


def test_a_submission_holds_what_was_given_and_nothing_else(client: Client, service: FakeService) -> None:
    service.on("POST", "/v1/jobs", CREATED)
    job = client.jobs.create(
        config={"apply_lora": True},
        steps=("prepare", "train"),
        training_file="file-1",
        validation_file=File("file-2"),
        input_job="job-9",
        resources={"gpus": 2},
        priority=0,
        max_attempts=5,
        max_runtime_seconds=3600.5,
        name="n",
        metadata={"a": "b"},
    )
    assert job.id == examples.JOB_ID
    assert service.requests[0].json() == {
        "config": {"apply_lora": True},
        "steps": ["prepare", "train"],
        "training_file": "file-1",
        "validation_file": "file-2",
        "input_job": "job-9",
        "resources": {"gpus": 2},
        "priority": 0,
        "max_attempts": 5,
        "max_runtime_seconds": 3600.5,
        "name": "n",
        "metadata": {"a": "b"},
    }


def test_what_is_none_is_left_to_the_service(client: Client, service: FakeService) -> None:
    service.on("POST", "/v1/jobs", CREATED)
    client.jobs.create(config={}, steps=None, training_file=None, name=None)
    assert service.requests[0].json() == {"config": {}}


def test_a_job_s_own_values_can_be_posted_back(client: Client, service: FakeService) -> None:
    service.on("POST", "/v1/jobs", CREATED)
    first = client.jobs.create(config={"max_steps": 3})
    client.jobs.create(config=first.config, input_job=first, resources=first.resources)
    assert service.requests[1].json() == {
        "config": examples.job()["config"],
        "input_job": examples.JOB_ID,
        "resources": {"gpus": 1},
    }
    assert first.resources == Resources(gpus=1)


@pytest.mark.parametrize("as_text", [True, False])
def test_a_local_data_set_is_uploaded_first(
    client: Client, service: FakeService, tmp_path: Path, as_text: bool
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    service.on("POST", "/v1/files", Reply(201, json={"id": "file-77"}))
    service.on("POST", "/v1/jobs", CREATED)
    client.jobs.create(config={}, training_file=str(path) if as_text else path)
    assert service.requests[1].json() == {"config": {}, "training_file": "file-77"}


def test_a_path_that_looks_like_an_id_is_meant_by_path_only(
    client: Client, service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file-1").write_text('{"text": "a"}\n')
    service.on("POST", "/v1/files", Reply(201, json={"id": "file-77"}))
    service.on("POST", "/v1/jobs", CREATED)
    client.jobs.create(config={}, training_file="file-1")
    client.jobs.create(config={}, training_file=Path("file-1"))
    bodies = [request.json()["training_file"] for request in service.asked("POST", "/v1/jobs")]
    assert bodies == ["file-1", "file-77"]


def test_a_data_set_that_is_nowhere_is_an_error_before_anything_is_sent(client: Client, service: FakeService) -> None:
    with pytest.raises(FileNotFoundError, match=r"validation_file: 'rows\.jsonl'"):
        client.jobs.create(config={}, validation_file="rows.jsonl")
    assert service.requests == []


def test_an_option_that_there_is_not_is_an_error_before_anything_is_sent(client: Client, service: FakeService) -> None:
    with pytest.raises(TypeError, match="no job option 'train_file'"):
        client.jobs.create(config={}, train_file="file-1")
    assert service.requests == []


def test_a_second_local_data_set_that_is_missing_stops_the_upload_of_the_first(
    client: Client, service: FakeService, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(FileNotFoundError):
        client.jobs.create(config={}, training_file=path, validation_file="missing.jsonl")
    assert service.requests == []


def test_validating_returns_what_is_wrong(client: Client, service: FakeService) -> None:
    details = [{"message": "A", "param": "x", "code": "c"}, {"message": "B", "param": None, "code": "d"}]
    body = {"object": "job.validation", "valid": False, "config": None, "steps": ["prepare"], "warnings": ["w"],
            "error": {"message": "A", "param": "x", "code": "c", "type": "t", "details": details}}  # fmt: skip
    service.on("POST", "/v1/jobs/validate", Reply(json=body))
    validation = client.jobs.validate(config={"x": 1})
    assert (validation.valid, validation.config, validation.steps, validation.warnings) == (
        False, {}, ("prepare",), ("w",),
    )  # fmt: skip
    assert [(problem.message, problem.param) for problem in validation.problems] == [("A", "x"), ("B", None)]


def test_validating_uploads_nothing(client: Client, service: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(finesmith.ConfigurationError, match="upload"):
        client.jobs.validate(config={}, training_file=path)
    assert service.requests == []


def test_listed_jobs_are_as_able_as_others(client: Client, service: FakeService) -> None:
    service.on("GET", "/v1/jobs", fake_service.listing([examples.job()]))
    service.on("POST", f"/v1/jobs/{examples.JOB_ID}/cancel", Reply(json=examples.job("cancelled")))
    (job,) = client.jobs.list(limit=5, status="running")
    assert service.requests[0].query == {"limit": "5", "status": "running"}
    assert job.cancel().status == "cancelled"
    assert job.status == "running"


def test_a_job_is_paused_resumed_and_cancelled_without_a_checkpoint(client: Client, service: FakeService) -> None:
    path = f"/v1/jobs/{examples.JOB_ID}"
    service.on("GET", path, Reply(json=examples.job("running")))
    service.on("POST", f"{path}/pause", Reply(json=examples.job("running", stop_requested="pause")))
    service.on("POST", f"{path}/resume", Reply(json=examples.job("queued")))
    service.on("POST", f"{path}/cancel", Reply(json=examples.job("cancelled")))
    job = client.jobs.get(examples.JOB_ID)
    assert job.pause().stop_requested == "pause"
    assert job.resume().status == "queued"
    assert job.cancel(save_checkpoint=False).status == "cancelled"
    assert service.requests[-1].query == {"save_checkpoint": "false"}


def test_a_job_is_refreshed_retried_and_deleted(client: Client, service: FakeService) -> None:
    path = f"/v1/jobs/{examples.JOB_ID}"
    service.on("GET", path, Reply(json=examples.job("failed")))
    service.on("POST", f"{path}/retry", Reply(json=examples.job("queued")))
    service.on("DELETE", path, Reply(json={"id": examples.JOB_ID, "object": "job", "deleted": True}))
    job = client.jobs.get(examples.JOB_ID).refresh()
    assert job.is_finished
    assert job.retry().status == "queued"
    job.delete()
    assert [request.method for request in service.requests] == ["GET", "GET", "POST", "DELETE"]


def test_events_logs_and_metrics_are_read_to_their_end(client: Client, service: FakeService) -> None:
    path = f"/v1/jobs/{examples.JOB_ID}"
    service.on("GET", path, Reply(json=examples.job()))
    first, second = [examples.event(1), examples.event(2)], [examples.event(3)]
    service.on("GET", f"{path}/events", fake_service.listing(first, has_more=True), fake_service.listing(second))
    lines = [examples.log_line(1, 1), examples.log_line(1, 2)]
    service.on("GET", f"{path}/logs", fake_service.listing(lines[:1], has_more=True), fake_service.listing(lines[1:]))
    service.on("GET", f"{path}/metrics", fake_service.listing([examples.event(3, "metrics")]))
    job = client.jobs.get(examples.JOB_ID)
    assert [event.seq for event in job.events()] == [1, 2, 3]
    assert [request.query for request in service.asked("GET", f"{path}/events")] == [
        {"limit": "1000"},
        {"limit": "1000", "after": "2"},
    ]
    assert [line.text for line in job.logs()] == ["line 1-1", "line 1-2"]
    assert service.asked("GET", f"{path}/logs")[1].query["after"] == "1-1"
    assert job.metrics(after=2)[0].data == {"loss": 2.7}
    assert service.asked("GET", f"{path}/metrics")[0].query["after"] == "2"
