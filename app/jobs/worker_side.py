"""What a worker does with a job: claim it, keep its lease, tell what happens, end it. Everything is fenced."""

from collections.abc import Sequence

from pydantic import JsonValue
from sqlalchemy import Connection

from app.db.session import snapshot, transaction
from app.jobs import fleet, limits, records, repository, transitions
from app.jobs.commands import NewArtifact, NewEvent, Outcome
from app.jobs.dispatch import choose_gpus
from app.jobs.errors import LeaseLost
from app.jobs.fencing import counts_fenced
from app.jobs.operations import JobOperations
from app.jobs.rooms import default_num_gpus
from app.jobs.rows import JobRow, dump_progress, dump_steps
from app.jobs.step_states import StepStates
from app.jobs.transitions import Change
from app.jobs.views import (
    ArtifactView,
    Claim,
    ClaimInputs,
    InputJobRef,
    JobError,
    LeaseView,
)
from app.secrets.cipher import UnreadableSecret
from app.states import JobStatus
from app.stored_event import StoredEvent


class WorkerSide(JobOperations):
    """Every method is one transaction. Each write names its attempt, and raises LeaseLost once the job is another's."""

    def claim(self, job_id: str, worker_id: str) -> Claim | None:
        """Takes the job and its GPUs for this worker in one transaction; the lease runs from now.

        None when there is nothing to do: the wake-up was stale or doubled, or the worker has no room (then the job
        waits for the next round of dispatching). The worker must have registered and be alive.
        """
        with transaction(self._sessions) as connection:
            gpus = self._find_room(connection, job_id, worker_id)
            job = repository.lock_job(connection, job_id)
            if gpus is None or job is None:
                return None
            try:
                secrets = {
                    secret.field: self._cipher.open(job_id, secret)
                    for secret in records.list_secrets(connection, job_id)
                }
            except UnreadableSecret as error:
                job_error = JobError("secret_unreadable", f"{error}; submit the job again")
                stored = repository.apply_change(
                    connection, job, transitions.fail(job, job_error, failures=job.failures)
                )
                claim = None
            else:
                change = transitions.start(job, worker_id=worker_id, gpus=gpus, lease_seconds=self.lease_seconds)
                stored = repository.apply_change(connection, job, change)
                if stored is None:
                    return None
                attempt = job.attempt + 1
                records.begin_attempt(connection, job, attempt=attempt, worker_id=worker_id, gpus=gpus)
                claim = _build_claim(connection, job, attempt=attempt, gpus=gpus, secrets=secrets)
        self._publish(stored or [])
        return claim

    @counts_fenced
    def renew(self, job_id: str, attempt: int) -> LeaseView:
        """Extends the lease from now, and tells whether the job is asked to stop. Raises LeaseLost."""
        with transaction(self._sessions) as connection:
            lease = repository.renew_lease(connection, job_id, attempt=attempt, lease_seconds=self.lease_seconds)
        if lease is None:
            raise LeaseLost(job_id, attempt)
        return lease

    @counts_fenced
    def record_events(self, job_id: str, attempt: int, events: Sequence[NewEvent]) -> list[StoredEvent]:
        """Numbers and stores events and moves the job's steps and progress by them, then publishes them.

        Raises LeaseLost.
        """
        if not events:
            return []
        with transaction(self._sessions) as connection:
            job = _lock_mine(connection, job_id, attempt)
            states = StepStates(job.step, job.steps, job.progress).follow(events, now=job.now)
            values = {
                "step": states.step,
                "steps": dump_steps(states.steps),
                "progress": dump_progress(states.progress),
            }
            stored = _apply(connection, job, Change(values, tuple(events)))
        self._publish(stored)
        return stored

    @counts_fenced
    def record_artifacts(self, job_id: str, attempt: int, files: Sequence[NewArtifact]) -> list[StoredEvent]:
        """Publishes files that already lie in storage, with an `artifact.created` event a folder. Raises LeaseLost."""
        if not files:
            return []
        with transaction(self._sessions) as connection:
            job = _lock_mine(connection, job_id, attempt)
            records.replace_artifacts(connection, job, files)
            stored = _apply(connection, job, Change({}, tuple(_tell_of_artifacts(files))))
        self._publish(stored)
        return stored

    @counts_fenced
    def record_log_chunk(
        self, job_id: str, attempt: int, *, first_line: int, num_lines: int, num_bytes: int, storage_key: str
    ) -> None:
        """Adds lines `first_line` … of the attempt's log, which already lie in storage. Raises LeaseLost."""
        with transaction(self._sessions) as connection:
            job = _lock_mine(connection, job_id, attempt)
            records.insert_log_chunk(
                connection,
                job,
                first_line=first_line,
                num_lines=num_lines,
                num_bytes=num_bytes,
                storage_key=storage_key,
            )

    @counts_fenced
    def finish(self, job_id: str, attempt: int, outcome: Outcome) -> JobStatus:
        """Ends the attempt; returns the job's state after it: a retryable failure may have gone back to the queue.

        Raises LeaseLost.
        """
        with transaction(self._sessions) as connection:
            job = _lock_mine(connection, job_id, attempt)
            change = transitions.end_attempt(job, outcome, backoff_seconds=self._settings.retry_backoff_seconds)
            stored = _apply(connection, job, change)
            records.close_attempt(connection, job, kind=change.outcome or outcome.kind, outcome=outcome)
            status = JobStatus(change.values["status"])
            if status is JobStatus.SUCCEEDED:
                # The only final state without a retry, which would need them again.
                records.delete_secrets(connection, job_id)
        self._publish(stored)
        return status

    def find_unfinished(self, job_ids: Sequence[str]) -> set[str]:
        """Those of the jobs that exist and have not ended: their workspaces are still needed."""
        with snapshot(self._sessions) as connection:
            return repository.find_unfinished_among(connection, job_ids)

    def _find_room(self, connection: Connection, job_id: str, worker_id: str) -> tuple[int, ...] | None:
        """GPUs for the job on this worker, None when it cannot run there now. Locks the worker's row."""
        live_seconds = self._settings.lease_seconds
        hosts = fleet.lock_live_hosts(connection, live_seconds=live_seconds, worker_id=worker_id)
        job = repository.lock_job(connection, job_id)
        if not hosts or job is None or not _is_claimable(job, worker_id):
            return None
        default = default_num_gpus(hosts)
        occupants = fleet.list_occupants(
            connection,
            default_num_gpus=default,
            redispatch_seconds=self._settings.redispatch_seconds,
            besides=job_id,
        )
        mine = [occupant for occupant in occupants if occupant.worker_id == worker_id]
        if not limits.may_run_another(connection, job.owner, settings=self._settings):
            fleet.withdraw_dispatch(connection, job_id)
            return None
        gpus = choose_gpus(hosts[0], mine, default if job.num_gpus is None else job.num_gpus)
        if gpus is None:
            fleet.withdraw_dispatch(connection, job_id)
        return gpus


def _is_claimable(job: JobRow, worker_id: str) -> bool:
    is_due = job.not_before is None or job.not_before <= job.now
    return job.status is JobStatus.QUEUED and is_due and job.worker_id in (None, worker_id)


def _lock_mine(connection: Connection, job_id: str, attempt: int) -> JobRow:
    job = repository.lock_running_job(connection, job_id, attempt=attempt)
    if job is None:
        raise LeaseLost(job_id, attempt)
    return job


def _apply(connection: Connection, job: JobRow, change: Change) -> list[StoredEvent]:
    stored = repository.apply_change(connection, job, change)
    if stored is None:
        raise LeaseLost(job.id, job.attempt)
    return stored


def _build_claim(
    connection: Connection, job: JobRow, *, attempt: int, gpus: tuple[int, ...], secrets: dict[str, str]
) -> Claim:
    named = (job.training_file, job.validation_file, job.calibration_file)
    file_ids = sorted({file_id for file_id in named if file_id is not None})
    files = records.find_file_refs(connection, owner=job.owner, file_ids=file_ids) if file_ids else {}
    return Claim(
        job_id=job.id,
        attempt=attempt,
        owner=job.owner,
        config=job.config,
        secrets=secrets,
        steps=tuple(step.name for step in job.steps),
        gpus=gpus,
        inputs=ClaimInputs(
            training_file=files.get(job.training_file or ""),
            validation_file=files.get(job.validation_file or ""),
            calibration_file=files.get(job.calibration_file or ""),
            input_job=None if job.input_job is None else _build_input_job(connection, job.input_job, owner=job.owner),
        ),
        max_runtime_seconds=_find_runtime_left(connection, job),
        priority=job.priority,
        traceparent=job.traceparent,
    )


def _find_runtime_left(connection: Connection, job: JobRow) -> float | None:
    if job.max_runtime_seconds is None:
        return None
    return max(0.0, job.max_runtime_seconds - records.sum_runtime_seconds(connection, job))


def _build_input_job(connection: Connection, job_id: str, *, owner: str) -> InputJobRef:
    by_name: dict[str, list[ArtifactView]] = {}
    job = repository.find_job(connection, job_id, owner=owner)
    for artifact in [] if job is None else records.list_artifacts(connection, job):
        by_name.setdefault(artifact.name, []).append(artifact)
    return InputJobRef(job_id, {name: tuple(artifacts) for name, artifacts in by_name.items()})


def _tell_of_artifacts(files: Sequence[NewArtifact]) -> list[NewEvent]:
    events = []
    for name in dict.fromkeys(file.name for file in files):
        sizes = [file.num_bytes for file in files if file.name == name]
        data: dict[str, JsonValue] = {"name": name, "num_files": len(sizes), "num_bytes": sum(sizes)}
        events.append(NewEvent("artifact.created", message=f"{name}: {len(sizes)} files", data=data))
    return events
