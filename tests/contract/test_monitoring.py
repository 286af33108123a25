"""The installation's figures, on both databases."""

import threading

import pytest
from sqlalchemy import update

from app.api.installation_metrics import collect_installation
from app.db.clock import db_now
from app.db.models import jobs
from app.db.session import transaction
from app.jobs import counters
from app.jobs.commands import NewEvent, Outcome
from app.jobs.counter_names import ALL_LABEL, DISPATCH_LAG, QUEUE_WAIT
from app.jobs.errors import LeaseLost
from app.jobs.workers import GpuReading
from app.monitoring.service import MonitoringService
from app.monitoring.views import InstallationFigures
from tests.support.installation import OWNER, CoreInstallation


def read_figures(core: CoreInstallation) -> InstallationFigures:
    return MonitoringService(core.sessions, core.workers).read_figures()


def read_samples(core: CoreInstallation) -> dict[tuple, float]:
    """As `/metrics` would tell them."""
    families = collect_installation(read_figures(core))
    samples = [sample for family in families for sample in family.samples]
    return {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}


def age_queue(core: CoreInstallation, job_id: str, *, seconds: float) -> None:
    with transaction(core.sessions) as connection:
        connection.execute(
            update(jobs).where(jobs.c.id == job_id).values(created_at=db_now() - seconds, queued_at=None)
        )


def test_the_queue_is_told_by_class_of_priority_with_its_oldest(core: CoreInstallation):
    for priority in (0, 0, 7, -1):
        core.submit(priority=priority)
    old = core.submit()
    age_queue(core, old.id, seconds=100.0)
    paused = core.submit(priority=9)
    with transaction(core.sessions) as connection:
        values = {"created_at": db_now() - 500.0, "not_before": db_now() + 60.0}
        connection.execute(update(jobs).where(jobs.c.id == paused.id).values(values))

    queue = read_figures(core).queue

    assert {name: figures.num_jobs for name, figures in queue.items()} == {"low": 1, "normal": 3, "high": 2}
    assert 100.0 <= queue["normal"].oldest_age_seconds < 130.0
    # One that waits for its next try cannot run, and is not late.
    assert queue["high"].oldest_age_seconds < 30.0


def test_a_claim_is_counted_with_how_long_the_job_waited(core: CoreInstallation):
    core.add_worker()
    job = core.submit(priority=3)
    age_queue(core, job.id, seconds=40.0)
    core.jobs.dispatch_ready()
    assert core.jobs.claim(job.id, "wrk-1") is not None

    found = read_figures(core).counters
    samples = read_samples(core)

    assert found[QUEUE_WAIT.bucket("high", QUEUE_WAIT.bounds.index(60))] == 1
    assert 40_000 <= found[QUEUE_WAIT.sum("high")] < 60_000
    assert samples["finesmith_queue_wait_seconds_bucket", ("le", "15"), ("priority", "high")] == 0
    assert samples["finesmith_queue_wait_seconds_bucket", ("le", "60"), ("priority", "high")] == 1
    assert samples["finesmith_queue_wait_seconds_bucket", ("le", "+Inf"), ("priority", "high")] == 1
    assert samples["finesmith_dispatch_lag_seconds_count",] == 1
    assert DISPATCH_LAG.sum(ALL_LABEL) in found


def test_attempts_are_counted_by_how_they_ended_and_stay_counted(core: CoreInstallation):
    core.add_worker(slots=10)
    for kind in ("succeeded", "requeued", "failed"):
        claim = core.claim_new()
        core.jobs.finish(claim.job_id, claim.attempt, Outcome(kind))
        if kind == "succeeded":
            core.jobs.delete(OWNER, claim.job_id)
    lost = core.claim_new()
    core.expire_lease(lost.job_id)
    core.jobs.expire_leases_of("wrk-1")

    samples = read_samples(core)

    attempts = {kind: samples["finesmith_attempts_total", ("outcome", kind)] for kind in ("succeeded", "requeued")}
    assert attempts == {"succeeded": 1, "requeued": 1}
    assert samples["finesmith_attempts_total", ("outcome", "failed")] == 1
    assert samples["finesmith_attempts_total", ("outcome", "lost")] == samples["finesmith_lease_reclaims_total",] == 1


def test_every_write_that_the_fence_kept_out_is_counted(core: CoreInstallation):
    core.add_worker()
    claim = core.claim_new()
    core.jobs.expire_leases_of("wrk-1")
    late = [
        lambda: core.jobs.renew(claim.job_id, 1),
        lambda: core.jobs.record_events(claim.job_id, 1, [NewEvent("progress")]),
        lambda: core.jobs.finish(claim.job_id, 1, Outcome("succeeded")),
    ]
    for write in late:
        with pytest.raises(LeaseLost):
            write()

    assert read_samples(core)["finesmith_fenced_writes_total",] == len(late)


def test_the_speed_of_running_jobs_is_added_up_by_worker_and_step(core: CoreInstallation):
    core.add_worker(slots=3)
    for speed in (1000.0, 500.0, None):
        claim = core.claim_new()
        progress = NewEvent("progress", step="train", data={"tokens_per_second": speed})
        core.jobs.record_events(claim.job_id, 1, [NewEvent("step.started", step="train"), progress])

    assert read_samples(core)["finesmith_tokens_per_second", ("step", "train"), ("worker", "wrk-1")] == 1500.0


def test_what_a_worker_that_is_gone_said_of_its_gpus_is_not_told(core: CoreInstallation):
    core.add_worker(num_gpus=1)
    core.workers.heartbeat("wrk-1", gpu_readings=[GpuReading(0, 5, 0.5)])
    assert [worker.gpu_readings for worker in core.workers.list()] == [(GpuReading(0, 5, 0.5),)]
    core.silence_worker("wrk-1")

    samples = read_samples(core)

    assert not [name for name, *_ in samples if name.startswith("finesmith_gpu")]
    assert samples["finesmith_workers", ("status", "offline")] == 1


def test_counting_at_the_same_time_loses_nothing(core: CoreInstallation):
    def count() -> None:
        for _ in range(10):
            with transaction(core.sessions) as connection:
                counters.add(connection, {"b": 1, "a": 2})

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert read_figures(core).counters == {"a": 80, "b": 40}


def test_asking_often_reads_the_database_once(core: CoreInstallation):
    monitoring = MonitoringService(core.sessions, core.workers, cache_seconds=3600)
    before = monitoring.read_figures()
    core.submit()

    assert monitoring.read_figures() is before
    assert MonitoringService(core.sessions, core.workers).read_figures().jobs == {"queued": 1}
