"""What becomes of a job when its worker, its broker or its host's disk goes away."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from app.states import JobStatus

pytestmark = pytest.mark.timeout(120)


def find_children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("victim", ["worker", "pool process", "starter"])
def test_nothing_outlives_a_worker_that_is_gone(installation, until, alive, victim):
    worker = installation.start_worker()
    pid_file = installation.settings.data_dir / "pids"
    job_id = installation.submit({"train": {"grandchild": str(pid_file), "ignore_signals": 600}})
    installation.wait_asleep(job_id)
    pids = [int(word) for word in pid_file.read_text().split()]
    pool_pids = find_children(worker.process.pid)
    assert all(alive(pid) for pid in pids)

    if victim == "worker":
        worker.kill()
    elif victim == "pool process":
        for pid in pool_pids:
            os.kill(pid, signal.SIGKILL)
    else:
        worker.process.stdin.close()
    gone_at = time.monotonic()

    until(lambda: not any(alive(pid) for pid in [*pids, *pool_pids]), seconds=5.0)
    assert time.monotonic() - gone_at < 2.0
    if victim == "starter":
        worker.process.wait(timeout=5)


def test_a_job_whose_worker_was_killed_goes_on_at_the_next_start(installation):
    worker = installation.start_worker()
    job_id = installation.submit({"train": {"metrics": 1, "checkpoint": 5, "sleep_once": 600}})
    installation.wait_asleep(job_id)
    worker.kill()

    installation.jobs.expire_leases_of(worker.id)
    installation.start_worker()
    installation.jobs.dispatch_ready()
    job = installation.wait(job_id)

    assert (job.status, job.attempt, job.failures) == (JobStatus.SUCCEEDED, 2, 1)
    assert [event.step for event in installation.events(job_id, "step.skipped")] == ["prepare"]


def test_a_job_goes_on_at_another_host_from_what_is_in_storage(installation, tmp_path, until):
    first = installation.start_worker()
    job_id = installation.submit({"train": {"checkpoint": 5, "sleep": 600}})
    installation.wait_asleep(job_id)
    until(lambda: installation.storage.exists(f"jobs/{job_id}/checkpoints/1/checkpoint-5.json"))
    first.kill()
    installation.jobs.expire_leases_of(first.id)

    other_host = tmp_path / "other-host"
    installation.start_worker(data_dir=other_host)
    installation.jobs.dispatch_ready()
    workspace = other_host / "workspaces" / job_id
    until(lambda: (workspace / "asleep").exists())

    assert [event.step for event in installation.events(job_id, "step.skipped")] == ["prepare"]
    assert (workspace / "outputs" / "checkpoint-5" / "COMPLETE").exists()
    assert (workspace / "data" / "train.jsonl").read_text() == '{"text": "a"}\n'


def test_sigterm_hands_the_job_back_without_counting_a_failure(installation):
    worker = installation.start_worker()
    job_id = installation.submit({"train": {"sleep_once": 600}})
    installation.wait_asleep(job_id)
    asked_at = time.monotonic()

    status = worker.terminate()

    assert status == 0
    assert time.monotonic() - asked_at < 6.0
    job = installation.get(job_id)
    assert (job.status, job.failures) == (JobStatus.QUEUED, 0)
    assert [event.data["global_step"] for event in installation.events(job_id, "checkpoint.saved")] == [7]
    assert [view.status for view in installation.workers.list()] == ["offline"]
    installation.start_worker()
    installation.jobs.dispatch_ready()
    assert installation.wait(job_id).status is JobStatus.SUCCEEDED


def test_sigterm_ends_an_idle_worker_soon(installation):
    worker = installation.start_worker()
    asked_at = time.monotonic()

    assert worker.terminate() == 0

    assert time.monotonic() - asked_at < 4.0


def test_a_running_job_does_not_notice_that_the_broker_was_killed(installation):
    installation.start_worker()
    job_id = installation.submit({"train": {"sleep": 3, "metrics": 2}})
    installation.wait_asleep(job_id)

    installation.valkey.kill()
    installation.valkey.wait()

    assert installation.wait(job_id).status is JobStatus.SUCCEEDED
    installation.start_valkey()
    second = installation.submit({}, steps=["prepare"])
    job = redispatch_until_ended(installation, second)
    assert job.status is JobStatus.SUCCEEDED


def redispatch_until_ended(installation, job_id):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        installation.jobs.dispatch_ready()
        job = installation.get(job_id)
        if job.status in (JobStatus.SUCCEEDED, JobStatus.FAILED):
            return job
        time.sleep(0.2)
    raise AssertionError("the job did not end")


def test_an_attempt_that_lost_its_lease_is_killed_and_writes_nothing(installation, until, alive):
    worker = installation.start_worker()
    job_id = installation.submit({"train": {"sleep": 600}})
    pid = installation.wait_asleep(job_id)

    installation.jobs.expire_leases_of(worker.id)

    until(lambda: not alive(pid), seconds=5.0)
    assert installation.get(job_id).status is JobStatus.QUEUED
    assert [event.type for event in installation.events(job_id)][-1] == "job.requeued"


@pytest.fixture
def small_disk(short_folder):
    folder = short_folder / "small"
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_job_that_fills_the_disk_of_the_database_too_fails_and_the_next_one_runs(small_disk, build_installation):
    installation = build_installation("small/all")
    installation.start_worker()

    job = installation.wait(installation.submit({"train": {"fill_disk": True}}))

    assert (job.status, job.error.code, job.error.step) == (JobStatus.FAILED, "disk_full", "train")
    assert [step.status for step in job.steps] == ["succeeded", "failed"]
    following = installation.wait(installation.submit({}, steps=["prepare"]))
    assert following.status is JobStatus.SUCCEEDED
    installation.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_job_fails_on_a_disk_that_something_else_has_filled(small_disk, build_installation):
    installation = build_installation("small/all")
    installation.start_worker()
    job_id = installation.submit({"train": {"sleep": 5, "fill_disk": True}})
    installation.wait_asleep(job_id)

    with (small_disk / "foreign").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * (1 << 16))

    job = installation.wait(job_id)
    assert (job.status, job.error.code, job.error.step) == (JobStatus.FAILED, "disk_full", "train")
    installation.close()


def test_a_job_reaches_running_at_once_on_an_idle_worker(installation):
    installation.start_worker()
    seconds = []
    for _ in range(5):
        job_id = installation.submit({}, steps=["prepare"])
        installation.wait(job_id)
        view = installation.get(job_id)
        seconds.append(view.started_at - view.created_at)

    assert sorted(seconds)[2] <= 0.5, json.dumps(seconds)
