"""Jobs on a real worker: what their owner sees of one that goes well, fails, is cancelled or runs too long."""

import hashlib
import itertools
import json
import time

import pytest

from app.states import JobStatus

pytestmark = pytest.mark.timeout(120)
TOKEN = "hf_" + "s" * 34
OWNER = "owner"


def test_a_job_runs_its_steps_and_leaves_events_log_and_artifacts(shared):
    job_id = shared.submit({"train": {"metrics": 3, "lines": 4, "checkpoint": 5}}, steps=["prepare", "train", "fuse"])

    job = shared.wait(job_id)

    assert job.status is JobStatus.SUCCEEDED
    assert [(step.name, step.status) for step in job.steps] == [
        ("prepare", "succeeded"),
        ("train", "succeeded"),
        ("fuse", "succeeded"),
    ]
    assert (job.progress.global_step, job.progress.total_steps) == (3, 3)
    events = shared.events(job_id)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.data["global_step"] for event in events if event.type == "metrics"] == [1, 2, 3]
    # Prepare fetches and has the token; train is offline and has none.
    assert shared.log(job_id)[0] == "hello from prepare token [redacted]"
    assert shared.log(job_id)[1:6] == ["hello from train token None", "line 0", "line 1", "line 2", "line 3"]
    artifacts = shared.jobs.list_artifacts(OWNER, job_id)
    assert [artifact.path for artifact in artifacts] == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "data/train.jsonl",
        "fused/model.safetensors",
    ]
    for artifact in artifacts:
        content = shared.storage.open(artifact.storage_key).read()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (artifact.num_bytes, artifact.sha256)


def test_the_live_streams_hold_what_the_database_holds(shared):
    job_id = shared.submit({"train": {"metrics": 2, "lines": 2}})
    shared.wait(job_id)

    live = [json.loads(fields["event"])["seq"] for _, fields in shared.live_events(job_id)]

    # The submission's own event may come to Redis after the worker's first, and is then rejected.
    assert [seq for seq in live if seq > 1] == [event.seq for event in shared.events(job_id)][1:]
    lines = [line for _, fields in shared.live_log(job_id) for line in json.loads(fields["lines"])]
    assert lines == shared.log(job_id)


def test_a_token_reaches_the_step_and_nothing_that_is_kept(shared):
    job_id = shared.submit({"prepare": {"fail": "secret"}})

    job = shared.wait(job_id)

    assert "[redacted]" in job.error.message
    kept = [shared.storage.open(key).read() for key in shared.storage.list(f"jobs/{job_id}")]
    kept += [repr(event).encode() for event in shared.events(job_id)] + [repr(shared.get(job_id)).encode()]
    assert not any(TOKEN.encode() in content or b"hf_aaa" in content for content in kept)


@pytest.mark.parametrize(
    ("order", "code", "param"),
    [("data", "invalid_data", "dataset_key"), ("disk_full", "disk_full", None), ("broken", "user_code", None)],
)
def test_a_failed_job_says_which_step_failed_and_why(shared, until, order, code, param):
    job_id = shared.submit({"train": {"fail": order}})

    job = shared.wait(job_id)

    assert job.status is JobStatus.FAILED
    assert (job.error.code, job.error.param, job.error.step, job.attempt) == (code, param, "train", 1)
    assert [step.status for step in job.steps] == ["succeeded", "failed"]
    assert not shared.workspace(job_id).exists()
    until(lambda: not list(shared.workspace(job_id).parent.glob(".removed-*")))


def test_a_killed_step_is_tried_again_and_done_steps_are_not(shared):
    job_id = shared.submit({"train": {"fail_once": "kill"}})

    job = shared.wait(job_id)

    assert (job.status, job.attempt, job.failures) == (JobStatus.SUCCEEDED, 2, 1)
    assert [event.attempt for event in shared.events(job_id, "step.started") if event.step == "prepare"] == [1]
    assert [event.attempt for event in shared.events(job_id, "step.skipped")] == [2]


def test_a_job_that_is_killed_every_time_fails_in_the_end(shared):
    job_id = shared.submit({"prepare": {"fail": "kill"}}, max_attempts=2)

    job = shared.wait(job_id)

    assert (job.status, job.error.code, job.attempt, job.failures) == (JobStatus.FAILED, "killed_by_signal", 2, 2)


def test_cancel_stops_a_running_job_soon(shared, until, alive):
    job_id = shared.submit({"train": {"sleep": 60}})
    pid = shared.wait_asleep(job_id)
    asked_at = time.monotonic()

    shared.jobs.cancel(OWNER, job_id)

    assert shared.wait(job_id).status is JobStatus.CANCELLED
    assert time.monotonic() - asked_at < 3.0
    assert not alive(pid)


def has_checkpoint(installation, job_id: str) -> bool:
    return installation.storage.exists(f"jobs/{job_id}/checkpoints/1/checkpoint-7.json")


def test_a_cancel_without_a_checkpoint_kills_at_once(shared, alive):
    job_id = shared.submit({"train": {"ignore_signals": 600}})
    pid = shared.wait_asleep(job_id)
    asked_at = time.monotonic()

    shared.jobs.cancel(OWNER, job_id, save_checkpoint=False)

    assert shared.wait(job_id).status is JobStatus.CANCELLED
    assert time.monotonic() - asked_at < 2.5, "it did not wait for the grace of 3 s"
    assert not alive(pid)
    assert not has_checkpoint(shared, job_id)


def test_a_paused_job_frees_its_worker_and_goes_on_from_its_checkpoint(shared, until, alive):
    job_id = shared.submit({"train": {"sleep_once": 60}})
    pid = shared.wait_asleep(job_id)

    shared.jobs.pause(OWNER, job_id)
    until(lambda: shared.get(job_id).status is JobStatus.PAUSED)
    assert not alive(pid)
    assert has_checkpoint(shared, job_id)
    other = shared.submit({}, steps=["prepare"])
    assert shared.wait(other).status is JobStatus.SUCCEEDED

    shared.jobs.resume(OWNER, job_id)
    shared.jobs.dispatch_ready()
    job = shared.wait(job_id)
    assert (job.status, job.attempt, job.failures) == (JobStatus.SUCCEEDED, 2, 0)
    types = [event.type for event in shared.events(job_id) if event.type.startswith("job.")]
    assert types == ["job.queued", "job.running", "job.paused", "job.resumed", "job.running", "job.succeeded"]


def test_cancel_kills_what_does_not_listen_and_what_hides(shared, alive):
    pid_file = shared.settings.data_dir / "pids"
    job_id = shared.submit({"train": {"grandchild": str(pid_file), "ignore_signals": 600}})
    shared.wait_asleep(job_id)
    pids = [int(word) for word in pid_file.read_text().split()]

    shared.jobs.cancel(OWNER, job_id)

    assert shared.wait(job_id).status is JobStatus.CANCELLED
    assert not any(alive(pid) for pid in pids)


def test_a_job_over_its_time_fails(shared):
    job_id = shared.submit({"train": {"sleep": 60}}, max_runtime_seconds=2.0)

    job = shared.wait(job_id)

    assert (job.status, job.error.code, job.attempt) == (JobStatus.FAILED, "max_runtime_exceeded", 1)


def test_a_retried_job_goes_on_from_storage(shared):
    job_id = shared.submit({"train": {"sleep": 60}})
    shared.wait_asleep(job_id)
    shared.jobs.cancel(OWNER, job_id)
    shared.wait(job_id)
    assert not shared.workspace(job_id).exists()
    assert shared.storage.exists(f"jobs/{job_id}/checkpoints/1/checkpoint-7.json")

    shared.jobs.retry(OWNER, job_id)
    shared.jobs.dispatch_ready()
    shared.wait_asleep(job_id)

    assert (shared.workspace(job_id) / "outputs" / "checkpoint-7" / "COMPLETE").exists()
    assert [event.step for event in shared.events(job_id, "step.skipped")] == ["prepare"]
    shared.jobs.cancel(OWNER, job_id)
    shared.wait(job_id)


def test_events_are_seen_soon_after_they_are_written(shared, until):
    job_id = shared.submit({"train": {"metrics": 1, "sleep": 60}})
    until(lambda: shared.events(job_id, "metrics"))
    event = shared.events(job_id, "metrics")[0]
    seen_at = time.time()

    shared.jobs.cancel(OWNER, job_id)
    shared.wait(job_id)

    assert seen_at - event.created_at < 1.0


def test_waiting_jobs_follow_one_another_without_a_reconciler(shared):
    job_ids = [shared.submit({}, steps=["prepare"]) for _ in range(3)]

    jobs = [shared.wait(job_id) for job_id in job_ids]

    assert [job.status for job in jobs] == [JobStatus.SUCCEEDED] * 3
    gaps = [later.started_at - earlier.finished_at for earlier, later in itertools.pairwise(jobs)]
    assert max(gaps) < 1.5
