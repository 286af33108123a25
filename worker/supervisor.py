"""The body of the Celery task: takes one job, runs its pipeline, and tells the service what became of it."""

import errno
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.jobs.commands import NewEvent, Outcome
from app.jobs.errors import LeaseLost
from app.jobs.views import Claim
from app.states import FINAL_STATUSES, JobStatus
from trainer_core.attempt.host_memory import count_oom_kills
from trainer_core.attempt.outcome import Failure, read_result
from trainer_core.enums import Step
from trainer_core.errors import DiskFullError, TrainerError
from trainer_core.events import EventRecord
from trainer_core.watchdog import become_subreaper
from trainer_core.workspace import Workspace
from worker.disk_relief import DiskReserve, make_room
from worker.drain import DrainFlag
from worker.event_pump import EventPump
from worker.exit_status import StopReason, classify_exit, name_step, to_job_error
from worker.job_watch import JobWatch
from worker.lease_keeper import LeaseKeeper
from worker.log_pump import LogPump
from worker.pipeline_process import PIPELINE_ENTRY, PipelineProcess, start_pipeline
from worker.preview_process import PREVIEW_ENTRY
from worker.publisher_thread import PublisherThread
from worker.publishing import ArtifactDamaged, Publisher
from worker.pump_thread import PumpThread
from worker.restoring import AttemptRestorer
from worker.services import Services
from worker.staging import InputStager
from worker.standby import StandbyKeeper
from worker.tracing import note_outcome, watch_attempt
from worker.workspaces import make_workspace, remove_folder, set_aside

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_RETRY_SECONDS = 1.0
_LOG_DRAIN_SECONDS = 30.0
"""How long a job's end waits for a storage that takes no log lines."""
_PUBLISH_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Host:
    """What all jobs of this worker share."""

    worker_id: str
    start_folder: Path
    """Where the worker was started: plugins may lie there."""
    drain: DrainFlag
    pipeline_entry: Sequence[str] = PIPELINE_ENTRY
    preview_entry: Sequence[str] = PREVIEW_ENTRY
    standby: StandbyKeeper | None = None
    """None: every job's processes are started when it is there."""


def run_job(job_id: str, *, services: Services, host: Host) -> None:
    """Claims the job and stays with it until it has ended or is no longer ours.

    Nothing is done when the job cannot be claimed: the wake-up was late or doubled, or the host has no room.
    """
    if host.drain.is_set:
        return
    claim = services.jobs.claim(job_id, host.worker_id)
    if claim is None:
        return
    try:
        with watch_attempt(claim):
            Supervisor(claim, services=services, host=host).run()
    except LeaseLost as error:
        logger.warning("%s; its processes are gone", error)
    if host.drain.is_set:
        return
    try:
        services.jobs.dispatch_ready()
    # The reconciler sends it within a second anyway.
    except Exception as error:  # noqa: BLE001
        logger.warning("the next job is not sent yet: %s", error)


class Supervisor:
    """One attempt at one job, from its claim to its outcome."""

    def __init__(self, claim: Claim, *, services: Services, host: Host) -> None:
        self._claim = claim
        self._services = services
        self._host = host
        self._keeper = LeaseKeeper(services.jobs, job_id=claim.job_id, attempt=claim.attempt)
        self._reserve = DiskReserve(services.settings.data_dir)
        self._watch = JobWatch(
            keeper=self._keeper,
            drain=host.drain,
            max_runtime_seconds=claim.max_runtime_seconds,
            grace_seconds=services.settings.cancel_grace_seconds,
        )
        self._is_training = threading.Event()
        """An optimizer step was told of, and nothing was done about it yet."""

    def run(self) -> None:
        """Runs the attempt. Raises LeaseLost when the job was taken away: all its processes are gone then."""
        become_subreaper()
        self._keeper.start()
        try:
            outcome, workspace = self._run_guarded()
            self._keeper.raise_if_lost()
            self._finish(outcome, workspace)
        finally:
            self._keeper.stop()

    def _run_guarded(self) -> tuple[Outcome, Workspace | None]:
        """Returns the outcome of whatever happens on this host: nothing but a lost lease leaves it open."""
        workspace: Workspace | None = None
        try:
            workspace = make_workspace(self._services.settings, job_id=self._claim.job_id, attempt=self._claim.attempt)
            return self._run_in(workspace), workspace
        except LeaseLost:
            raise
        except _StoppedEarly as stopped:
            return classify_exit(-1, result=None, stop_reason=stopped.reason, had_oom_kill=False), workspace
        # A job must not stay without an end because of a fault of ours: it ends in a code, and the log has the rest.
        except Exception as error:
            logger.exception("%s could not be run", self._claim.job_id)
            outcome = _describe_fault(error)
            if _is_disk_full(outcome):
                self._reserve.release()
            return outcome, workspace

    def _run_in(self, workspace: Workspace) -> Outcome:
        claim, services = self._claim, self._services
        spec = InputStager(
            claim,
            workspace=workspace,
            storage=services.storage,
            settings=services.settings,
            check=self._raise_if_stopped,
        ).stage()
        AttemptRestorer(
            spec,
            workspace=workspace,
            storage=services.storage,
            check=self._raise_if_stopped,
            warn=self._warn,
        ).restore()
        attempt = workspace.attempt(claim.attempt)
        attempt.job.write_text(spec.to_json())
        self._reserve.fill()

        publisher = Publisher(
            workspace, services=services, job_id=claim.job_id, owner=claim.owner, attempt=claim.attempt
        )
        publishing = PublisherThread(publisher, workspace=workspace, keeper=self._keeper)
        events = EventPump(
            attempt.events,
            services=services,
            job_id=claim.job_id,
            attempt=claim.attempt,
            on_recorded=lambda record: self._follow(record, publishing),
        )
        log = LogPump(attempt.output, services=services, job_id=claim.job_id, attempt=claim.attempt)
        event_pumping = PumpThread(events, keeper=self._keeper, name=f"events-{claim.job_id}")
        log_pumping = PumpThread(log, keeper=self._keeper, name=f"log-{claim.job_id}")
        for thread in (publishing, event_pumping, log_pumping):
            thread.start()
        try:
            outcome = self._run_pipeline(workspace)
            if _is_disk_full(outcome):
                # The database may lie on the same disk: without room it takes down neither events nor the end.
                make_room(workspace, reserve=self._reserve)
            event_pumping.finish()
            log_pumping.finish(timeout_seconds=_LOG_DRAIN_SECONDS)
            publishing.finish()
            self._keeper.raise_if_lost()
            return self._publish_rest(publisher, spec.steps, name_step(outcome, events.running_step))
        finally:
            event_pumping.abandon()
            log_pumping.abandon()
            publishing.abandon()

    def _follow(self, record: EventRecord, publishing: PublisherThread) -> None:
        publishing.follow(record)
        if record.type in ("metrics", "progress") and record.step == Step.TRAIN:
            self._is_training.set()

    def _run_pipeline(self, workspace: Workspace) -> Outcome:
        oom_kills_before = count_oom_kills()
        process = start_pipeline(
            self._claim,
            workspace=workspace,
            settings=self._services.settings,
            start_folder=self._host.start_folder,
            entry=self._host.pipeline_entry,
            standby=self._host.standby,
        )
        try:
            status = self._wait(process)
        except BaseException:
            process.kill()
            raise
        finally:
            process.close()
        return classify_exit(
            status,
            result=read_result(workspace.attempt(self._claim.attempt).result),
            stop_reason=self._watch.stop_reason,
            had_oom_kill=count_oom_kills() > oom_kills_before,
        )

    def _wait(self, process: PipelineProcess) -> int:
        """Returns the exit status. Raises LeaseLost."""
        while True:
            status = process.wait(_POLL_SECONDS)
            if status is not None:
                return status
            self._keeper.raise_if_lost()
            self._keep_standby()
            if self._watch.is_stop_due():
                process.ask_to_stop()
            if self._watch.is_kill_due():
                return process.kill()

    def _keep_standby(self) -> None:
        """The next job's stand-by is made while this one trains, not while it starts; after it if it runs code of its
        model, which shares a user with it."""
        if self._host.standby is None or not self._is_training.is_set() or self._watch.stop_reason is not None:
            return
        self._is_training.clear()
        if not self._claim.config.get("trust_remote_code"):
            self._host.standby.fill()

    def _warn(self, message: str) -> None:
        logger.warning("%s: %s", self._claim.job_id, message)
        event = NewEvent("warning", message=message, level="warning")
        with self._services.recording:
            self._services.jobs.record_events(self._claim.job_id, self._claim.attempt, [event])

    def _raise_if_stopped(self) -> None:
        self._keeper.raise_if_lost()
        reason = self._watch.find_reason()
        if reason is not None:
            raise _StoppedEarly(reason)

    def _publish_rest(self, publisher: Publisher, steps: Sequence[Step], outcome: Outcome) -> Outcome:
        """Makes sure that what is done is in storage; a job whose artifacts cannot be published has not succeeded."""
        for tried in range(1, _PUBLISH_ATTEMPTS + 1):
            self._keeper.raise_if_lost()
            try:
                for step in steps:
                    publisher.publish_step(step)
                return outcome
            except LeaseLost:
                raise
            except ArtifactDamaged as error:
                return _fail("artifact_damaged", str(error), retryable=True)
            # Storage and database raise what their libraries raise.
            except Exception as error:  # noqa: BLE001
                logger.warning("%s: publishing failed (%d): %s", self._claim.job_id, tried, error)
                if outcome.kind != "succeeded":
                    return outcome
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    return _fail(DiskFullError.code, "no space left for the job's artifacts", retryable=False)
                time.sleep(_RETRY_SECONDS * tried)
        return _fail("storage_unavailable", "the job's artifacts could not be put into storage", retryable=True)

    def _finish(self, outcome: Outcome, workspace: Workspace | None) -> None:
        """Writes the outcome and clears the host of a job that is over. Raises LeaseLost."""
        note_outcome(outcome)
        if workspace is None:
            self._write_outcome(outcome)
            return
        is_over = outcome.kind in ("succeeded", "cancelled") or (outcome.kind == "failed" and not outcome.retryable)
        # Before the outcome is written: after it, a retry may begin in the same folder.
        aside = set_aside(workspace) if is_over else None
        if aside is not None and _is_disk_full(outcome):
            remove_folder(aside)
        status = self._write_outcome(outcome)
        if aside is None and status in FINAL_STATUSES:
            aside = set_aside(workspace)
        if aside is not None:
            remove_folder(aside)

    def _write_outcome(self, outcome: Outcome) -> JobStatus:
        """While the database is away it goes on trying. Raises LeaseLost."""
        while True:
            self._keeper.raise_if_lost()
            try:
                return self._services.jobs.finish(self._claim.job_id, self._claim.attempt, outcome)
            except LeaseLost:
                raise
            # Whatever a database or its driver raises while it is away: the lease is kept meanwhile.
            except Exception as error:  # noqa: BLE001
                logger.warning("the end of %s is not written yet: %s", self._claim.job_id, error)
                time.sleep(_RETRY_SECONDS)


class _StoppedEarly(Exception):
    """A stop was asked for before the pipeline was started."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


def _is_disk_full(outcome: Outcome) -> bool:
    return outcome.error is not None and outcome.error.code == DiskFullError.code


def _describe_fault(error: Exception) -> Outcome:
    if isinstance(error, TrainerError):
        failure = Failure(error.code, error.message, param=error.param, retryable=error.retryable)
        return Outcome("failed", error=to_job_error(failure), retryable=failure.retryable)
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _fail(DiskFullError.code, "no space left on the host's disk", retryable=False)
        return _fail("host_error", f"the host failed: {error.strerror or error}", retryable=True)
    return _fail("internal_error", f"the worker failed: {type(error).__name__}", retryable=True)


def _fail(code: str, message: str, *, retryable: bool) -> Outcome:
    return Outcome("failed", error=to_job_error(Failure(code, message)), retryable=retryable)
