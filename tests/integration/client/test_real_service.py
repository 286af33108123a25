"""The SDK against the real server: what its own tests take from the contract is what the server does."""

import random
import threading
from pathlib import Path

import finesmith
import pytest
from finesmith import Client

from app.jobs.views import JobError
from tests.integration.client.conftest import CONFIG, Service


def test_a_job_is_submitted_with_a_local_file_watched_and_cancelled(client: Client, rows: Path) -> None:
    job = client.jobs.create(config=CONFIG, training_file=rows, name="first", metadata={"team": "a"}, priority=5)
    assert (job.status, job.name, job.metadata, job.priority) == ("queued", "first", {"team": "a"}, 5)
    assert [step.name for step in job.steps] == ["prepare", "train"]
    assert job.config["lora_rank"] == 8
    assert set(job.extra) == set()
    assert [event.type for event in job.events()] == ["job.queued"]
    assert job.cancel().status == "cancelled"
    assert job.cancel().status == "cancelled"  # a repeated call does no harm
    with pytest.raises(finesmith.JobCancelled):
        job.wait(timeout=30, progress=False)
    assert [event.type for event in job.events(follow=True)] == ["job.queued", "job.cancelled"]
    assert job.retry().status == "queued"
    assert job.refresh().cancel().status == "cancelled"
    job.delete()
    with pytest.raises(finesmith.NotFoundError):
        job.refresh()


def test_files_come_back_as_they_were_sent(client: Client, rows: Path, tmp_path: Path) -> None:
    file = client.files.upload(rows)
    assert (file.filename, file.bytes, file.num_samples) == ("rows.jsonl", rows.stat().st_size, 3)
    assert client.files.get(file.id) == file
    assert client.files.download(file.id, tmp_path / "copy.jsonl").read_bytes() == rows.read_bytes()
    client.files.delete(file.id)
    with pytest.raises(finesmith.NotFoundError):
        client.files.get(file.id)


def test_lists_walk_over_pages(service: Service, rows: Path) -> None:
    with service.make_client("many") as client:
        files = [client.files.upload(rows) for _ in range(5)]
        jobs = [client.jobs.create(config=CONFIG, training_file=file) for file in files]
        assert [file.id for file in client.files.list(limit=2)] == [file.id for file in reversed(files)]
        assert [job.id for job in client.jobs.list(limit=2)] == [job.id for job in reversed(jobs)]
        jobs[0].cancel()
        assert [job.id for job in client.jobs.list(status="cancelled")] == [jobs[0].id]


def test_bad_input_is_told_with_everything_that_is_wrong(client: Client, rows: Path) -> None:
    file = client.files.upload(rows)
    config = {**CONFIG, "lora_rnak": 8, "max_length": -1}
    with pytest.raises(finesmith.UnprocessableEntityError) as caught:
        client.jobs.create(config=config, training_file=file)
    assert {detail.param for detail in caught.value.details} >= {"config.lora_rnak", "config.max_length"}
    assert "lora_rank" in str(caught.value)
    assert caught.value.request_id
    validation = client.jobs.validate(config=config, training_file=file)
    assert not validation.valid
    assert {problem.param for problem in validation.problems} >= {"config.lora_rnak", "config.max_length"}


def test_a_good_submission_is_validated_and_not_stored(client: Client, rows: Path) -> None:
    file = client.files.upload(rows)
    num_jobs = len(list(client.jobs.list()))
    validation = client.jobs.validate(config=CONFIG, training_file=file)
    assert (validation.valid, validation.problems) == (True, ())
    assert validation.steps == ("prepare", "train")
    assert validation.config["dataset_key"] == "chat"
    assert len(list(client.jobs.list())) == num_jobs


def test_a_job_s_own_config_can_be_posted_back(client: Client, rows: Path) -> None:
    first = client.jobs.create(config=CONFIG, training_file=rows)
    second = client.jobs.create(config=first.config, training_file=rows, resources=first.resources)
    assert second.config == first.config


def test_a_line_that_is_no_json_is_named(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(finesmith.APIStatusError, match="2") as caught:
        client.files.upload(path)
    assert caught.value.status_code in (400, 422)


def test_one_idempotency_key_makes_one_job(client: Client, rows: Path) -> None:
    file = client.files.upload(rows)
    first = client.jobs.create(config=CONFIG, training_file=file, idempotency_key="nightly-1")
    again = client.jobs.create(config=CONFIG, training_file=file, idempotency_key="nightly-1")
    assert again.id == first.id
    with pytest.raises(finesmith.UnprocessableEntityError, match=r"(?i)idempotency"):
        client.jobs.create(config={**CONFIG, "lora_rank": 4}, training_file=file, idempotency_key="nightly-1")


def test_a_wrong_key_and_a_foreign_job_are_told_apart(service: Service, client: Client, rows: Path) -> None:
    job = client.jobs.create(config=CONFIG, training_file=rows)
    with Client(service.url, api_key="fsk_wrong") as stranger, pytest.raises(finesmith.AuthenticationError):
        stranger.jobs.get(job.id)
    with service.make_client("eve") as other, pytest.raises(finesmith.NotFoundError):
        other.jobs.get(job.id)


def test_a_running_job_is_neither_retried_nor_deleted(service: Service, client: Client, rows: Path) -> None:
    job = client.jobs.create(config=CONFIG, training_file=rows)
    service.claim(job.id)
    with pytest.raises(finesmith.ConflictError):
        job.retry()
    with pytest.raises(finesmith.ConflictError):
        job.delete()


def test_the_installation_tells_what_it_can(service: Service, client: Client) -> None:
    registries = client.registries.get()
    assert {"chat", "general", "soda"} <= set(registries.datasets)
    assert (registries.trainers, registries.extra) != ((), {})
    assert registries.extra == {}
    assert "lora_rank" in client.config_schema()["properties"]
    assert service.worker_id in [worker.id for worker in client.workers.list()]
    health = client.health()
    assert health.is_ready
    assert health.checks["database"] == "ok"


def test_a_job_is_followed_to_its_end_and_its_results_are_fetched(
    service: Service, client: Client, rows: Path, tmp_path: Path
) -> None:
    job = client.jobs.create(config=CONFIG, training_file=rows)
    weights = random.Random(3).randbytes(3_000_000)

    def play_worker() -> None:
        attempt = service.claim(job.id)
        attempt.emit("step.started", "progress", "metrics")
        attempt.log(1, "one", "two")
        attempt.log(3, "three")
        attempt.publish("fused/model.safetensors", weights)
        attempt.publish("fused/config é#.json", b"{}")
        attempt.finish()

    worker = threading.Thread(target=play_worker)
    worker.start()
    events = list(job.events(follow=True))
    worker.join()
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "job.succeeded"
    assert events == job.events()
    assert job.events(after=2) == events[2:]
    assert [line.text for line in job.logs(follow=True)] == ["one", "two", "three"]
    assert [line.id for line in job.logs(after="1-1")] == ["1-2", "1-3"]
    assert [record.data["loss"] for record in job.metrics()] == [1.5]
    job = job.wait(timeout=30, progress=False)
    assert (job.progress.global_step, job.progress.total_steps) == (7, 9)
    assert [artifact.name for artifact in job.artifacts()] == ["fused", "fused"]
    # An earlier download was cut off.
    (tmp_path / "out/fused").mkdir(parents=True)
    digest = next(artifact.sha256 for artifact in job.artifacts() if artifact.bytes == len(weights))
    (tmp_path / f"out/fused/model.safetensors.{digest[:12]}.part").write_bytes(weights[:1_000_000])
    paths = job.download(tmp_path / "out")
    assert {path.read_bytes() for path in paths} == {weights, b"{}"}
    assert len(list((tmp_path / "out/fused").iterdir())) == 2


def test_a_failed_job_carries_its_error(service: Service, client: Client, rows: Path) -> None:
    job = client.jobs.create(config=CONFIG, training_file=rows)
    error = JobError("invalid_data", "Row 2 has nothing to learn.", param="training_file", step="prepare")
    service.claim(job.id).finish("failed", error)
    with pytest.raises(finesmith.JobFailed, match="Row 2 has nothing to learn") as caught:
        job.wait(timeout=30, progress=False)
    assert caught.value.error is not None
    assert (caught.value.error.code, caught.value.error.step) == ("invalid_data", "prepare")


def test_following_and_waiting_outlive_a_crash_of_the_server(service: Service, client: Client, rows: Path) -> None:
    job = client.jobs.create(config=CONFIG, training_file=rows)
    attempt = service.claim(job.id)
    attempt.emit("step.started")
    events = job.events(follow=True)
    seen = [next(events).type for _ in range(3)]
    service.kill()
    attempt.emit("progress", "step.finished")
    service.start()
    seen += [next(events).type for _ in range(2)]
    service.kill()
    attempt.finish()
    waiter = threading.Timer(0.5, service.start)
    waiter.start()
    assert job.wait(timeout=60, progress=False).status == "succeeded"
    waiter.join()
    seen += [event.type for event in events]
    assert seen == ["job.queued", "job.running", "step.started", "progress", "step.finished", "job.succeeded"]
