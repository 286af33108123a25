"""What owners do with their jobs: submit, look, cancel, retry, delete."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from hashlib import sha256
from json import dumps

from sqlalchemy import Connection

from app.db.session import snapshot, transaction
from app.ids import new_id
from app.jobs import fleet, limits, log_reading, records, repository, transitions
from app.jobs.commands import JobSubmission, NewEvent
from app.jobs.dispatch import Assignment, plan
from app.jobs.errors import (
    ArtifactNotFound,
    IdempotencyConflict,
    InvalidSubmission,
    InvalidTransition,
    JobNotFound,
    Problem,
)
from app.jobs.named_secrets import GivenSecrets, find_present_values, seal_given
from app.jobs.operations import JobOperations
from app.jobs.references import find_references
from app.jobs.removals import schedule_job_removal
from app.jobs.rooms import Waiting, default_num_gpus
from app.jobs.rows import JobRow, as_view, dump_progress, dump_steps
from app.jobs.storable import is_storable_text
from app.jobs.transitions import Change
from app.jobs.validation import Checked, Validation, check_submission
from app.jobs.views import (
    ArtifactView,
    JobView,
    LogCursor,
    LogLine,
    Page,
    Progress,
    Resources,
    StepView,
    Submitted,
    WholeLog,
)
from app.secrets.cipher import SealedSecret
from app.states import FINAL_STATUSES, JobStatus, StepStatus
from app.stored_event import StoredEvent

MAX_KEY_CHARS = 255


@dataclass(frozen=True, slots=True)
class Prepared:
    """A submission that was checked and is about to be stored."""

    job_id: str
    owner: str
    submission: JobSubmission
    idempotency_key: str | None
    checked: Checked
    sealed: tuple[SealedSecret, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """A submission that is committed when its transaction is."""

    submitted: Submitted
    assignments: Sequence[Assignment]


class OwnerSide(JobOperations):
    """Every method is one transaction, and knows only the owner's jobs."""

    def submit(self, owner: str, submission: JobSubmission, *, idempotency_key: str | None = None) -> Submitted:
        """Stores a job; it is committed when this returns. Then wakes a worker, if one has room and nobody waits.

        Raises InvalidSubmission with every problem, IdempotencyConflict, TooManyJobs.
        """
        prepared = self.prepare(owner, submission, idempotency_key=idempotency_key)
        with transaction(self._sessions) as connection:
            stored = self.store(connection, prepared)
        self.wake(stored.assignments)
        return stored.submitted

    def prepare(self, owner: str, submission: JobSubmission, *, idempotency_key: str | None = None) -> Prepared:
        """The long part of `submit`, which needs no lock: checks everything and seals the secrets. Writes nothing."""
        job_id = new_id("job")
        checked = self._check(owner, submission)
        sealed = self._seal(job_id, checked.secrets) if not checked.validation.problems else ()
        return Prepared(job_id, owner, submission, idempotency_key, checked, sealed)

    def store(self, connection: Connection, prepared: Prepared) -> Stored:
        """The part of `submit` that writes; the caller commits, then calls `wake`.

        Raises InvalidSubmission with every problem, IdempotencyConflict, TooManyJobs.
        """
        owner, submission, checked = prepared.owner, prepared.submission, prepared.checked
        if prepared.idempotency_key is not None:
            earlier = _take_key(connection, owner, submission, key=prepared.idempotency_key, job_id=prepared.job_id)
            if earlier is not None:
                return Stored(Submitted(as_view(earlier), replayed=True), assignments=())
        if problems := checked.validation.problems or find_references(connection, owner, submission).problems:
            raise InvalidSubmission(problems)
        limits.check_room_in_queue(connection, owner, settings=self._settings)
        assignments = self._place(connection, prepared)
        job = _insert(
            connection, prepared.job_id, owner, submission=submission, checked=checked, assignments=assignments
        )
        records.insert_secrets(connection, prepared.job_id, prepared.sealed)
        return Stored(Submitted(as_view(job), replayed=False), assignments)

    def wake(self, assignments: Sequence[Assignment]) -> None:
        """Tells the workers that a job was placed with; best effort, at most half a second."""
        self._wake(assignments)

    def validate(self, owner: str, submission: JobSubmission) -> Validation:
        """All that `submit` would check; stores nothing."""
        return self._check(owner, submission).validation

    def get(self, owner: str, job_id: str) -> JobView:
        """The job. Raises JobNotFound."""
        with snapshot(self._sessions) as connection:
            return as_view(_find(connection, owner, job_id))

    def list(self, owner: str, *, after: str | None, limit: int, status: JobStatus | None = None) -> Page[JobView]:
        """Jobs, newest first, from the next older than the id `after`."""
        with snapshot(self._sessions) as connection:
            rows = repository.list_jobs(connection, owner=owner, after=after, limit=limit + 1, status=status)
        return Page([as_view(row) for row in rows[:limit]], has_more=len(rows) > limit)

    def count_by_status(self) -> dict[str, int]:
        """Number of jobs of all owners in each state, for the metrics."""
        with snapshot(self._sessions) as connection:
            return repository.count_jobs_by_status(connection)

    def cancel(self, owner: str, job_id: str, *, save_checkpoint: bool = True) -> JobView:
        """Cancels a job that no worker has; asks the worker of a running one. Doing it again changes nothing.

        Without `save_checkpoint` a running job is killed at once. Raises JobNotFound, InvalidTransition for a job that
        succeeded or failed.
        """
        return self._steer(owner, job_id, partial(transitions.request_cancel, save_checkpoint=save_checkpoint))

    def pause(self, owner: str, job_id: str) -> JobView:
        """Pauses a job that no worker has; asks the worker of a running one, which saves a checkpoint first.

        Raises JobNotFound, InvalidTransition for a job that is over or being cancelled.
        """
        return self._steer(owner, job_id, transitions.request_pause)

    def resume(self, owner: str, job_id: str) -> JobView:
        """Lets a paused job go on, from its checkpoint and in its old place. Doing it again changes nothing.

        Raises JobNotFound, InvalidTransition for a job that is over or being cancelled.
        """
        return self._steer(owner, job_id, transitions.request_resume)

    def retry(self, owner: str, job_id: str) -> JobView:
        """Sends a failed or cancelled job back to the queue under its id; steps that are done are not repeated.

        A secret that its config names is taken anew; of one that is gone since it keeps the value that it had.

        Raises JobNotFound, InvalidTransition, InvalidSubmission when a file or job that it needs is gone,
        TooManyJobs.
        """
        with transaction(self._sessions) as connection:
            job = _lock(connection, owner, job_id)
            change = transitions.retry(job)
            limits.check_room_in_queue(connection, owner, settings=self._settings)
            if problems := find_references(connection, owner, _name_references(job)).problems:
                raise InvalidSubmission(problems)
            renewed = self._seal(job_id, find_present_values(connection, owner, job.config))
            records.replace_secrets(connection, job, renewed)
            stored = repository.apply_change(connection, job, change)
            view = as_view(_find(connection, owner, job_id))
        self._publish(stored or [])
        return view

    def delete(self, owner: str, job_id: str) -> JobView:
        """Removes a job that has ended, with its events, artifacts, logs and secrets; returns what it was.

        Its files are gone soon, also when the storage does not answer now or this process dies.
        Raises JobNotFound, InvalidTransition while it has not ended or an unfinished job needs its artifacts.
        """
        with transaction(self._sessions) as connection:
            job = _lock(connection, owner, job_id)
            if job.status not in FINAL_STATUSES:
                raise InvalidTransition(f"job {job_id} is {job.status}; cancel it before deleting it")
            if dependent := repository.find_unfinished_dependent(connection, job):
                raise InvalidTransition(f"job {job_id} is the input_job of the unfinished job {dependent}")
            repository.delete_job(connection, job)
            schedule_job_removal(connection, job_id)
        with suppress(OSError):
            self._storage.delete_prefix(f"jobs/{job_id}")
        return as_view(job)

    def list_events(
        self, owner: str, job_id: str, *, after_seq: int, limit: int, types: Sequence[str] | None = None
    ) -> Page[StoredEvent]:
        """Events with a number above `after_seq`, oldest first. Raises JobNotFound."""
        with snapshot(self._sessions) as connection:
            job = _find(connection, owner, job_id)
            rows = records.list_events(connection, job, after_seq=after_seq, limit=limit + 1, types=types)
        return Page(rows[:limit], has_more=len(rows) > limit)

    def list_artifacts(self, owner: str, job_id: str) -> Sequence[ArtifactView]:
        """All published files of the job, by path. Raises JobNotFound."""
        with snapshot(self._sessions) as connection:
            return records.list_artifacts(connection, _find(connection, owner, job_id))

    def get_artifact(self, owner: str, job_id: str, path: str) -> ArtifactView:
        """One published file. Raises JobNotFound, ArtifactNotFound."""
        with snapshot(self._sessions) as connection:
            job = _find(connection, owner, job_id)
            artifact = records.find_artifact(connection, job, path=path)
        if artifact is None:
            raise ArtifactNotFound(path)
        return artifact

    def list_log_lines(self, owner: str, job_id: str, *, after: LogCursor | None, limit: int) -> Page[LogLine]:
        """Stored log lines after the cursor, oldest attempt first. Raises JobNotFound."""
        with snapshot(self._sessions) as connection:
            job = _find(connection, owner, job_id)
            chunks = records.list_log_chunks(connection, job, after=after, limit=limit + 1)
        lines = log_reading.read_lines(self._storage, chunks, after=after, limit=limit + 1)
        return Page(lines[:limit], has_more=len(lines) > limit)

    def find_log(self, owner: str, job_id: str) -> WholeLog:
        """Where the job's whole output lies. Raises JobNotFound."""
        with snapshot(self._sessions) as connection:
            job = _find(connection, owner, job_id)
            pieces = records.list_log_pieces(connection, job)
        return WholeLog(tuple(pieces), is_final=job.status in FINAL_STATUSES)

    def _steer(self, owner: str, job_id: str, request: Callable[[JobRow], Change | None]) -> JobView:
        with transaction(self._sessions) as connection:
            job = _lock(connection, owner, job_id)
            change = request(job)
            stored = [] if change is None else repository.apply_change(connection, job, change)
            view = as_view(_find(connection, owner, job_id))
        self._publish(stored or [])
        return view

    def _seal(self, job_id: str, given: GivenSecrets) -> tuple[SealedSecret, ...]:
        return seal_given(self._cipher, given, scope_id=job_id, named_cipher=self._named_secret_cipher)

    def _check(self, owner: str, submission: JobSubmission) -> Checked:
        installation = self._workers.current_installation()
        with snapshot(self._sessions) as connection:
            return check_submission(connection, owner, submission, installation=installation, settings=self._settings)

    def _place(self, connection: Connection, prepared: Prepared) -> Sequence[Assignment]:
        """A worker with room for a new job, while no other job waits; else the reconciler's next round decides."""
        if repository.has_undispatched_job(connection):
            return []
        hosts = fleet.lock_live_hosts(connection, live_seconds=self._settings.lease_seconds)
        if not hosts:
            return []
        occupants = fleet.list_occupants(
            connection,
            default_num_gpus=default_num_gpus(hosts),
            redispatch_seconds=self._settings.redispatch_seconds,
        )
        checked = prepared.checked
        waiting = Waiting(
            prepared.job_id,
            checked.num_gpus,
            checked.required_keys,
            owner=prepared.owner,
            priority=prepared.submission.priority,
        )
        running_limits = limits.list_running_limits(connection, settings=self._settings)
        return plan([waiting], hosts, occupants, limits=running_limits).assignments


def _find(connection: Connection, owner: str, job_id: str) -> JobRow:
    job = repository.find_job(connection, job_id, owner=owner)
    if job is None:
        raise JobNotFound(job_id)
    return job


def _lock(connection: Connection, owner: str, job_id: str) -> JobRow:
    job = repository.lock_job(connection, job_id, owner=owner)
    if job is None:
        raise JobNotFound(job_id)
    return job


def _take_key(connection: Connection, owner: str, submission: JobSubmission, *, key: str, job_id: str) -> JobRow | None:
    """The job that the key made before; None when the key is now this job's. Raises IdempotencyConflict."""
    if not (0 < len(key) <= MAX_KEY_CHARS and is_storable_text(key)):
        message = f"Idempotency-Key must have 1 to {MAX_KEY_CHARS} characters"
        raise InvalidSubmission([Problem(message, "Idempotency-Key", "invalid_value")])
    content = {field.name: getattr(submission, field.name) for field in fields(submission) if field.compare}
    content["resources"] = asdict(submission.resources)
    body = dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    fingerprint = sha256(body.encode("utf-8", "surrogatepass")).hexdigest()
    earlier = repository.take_idempotency_key(connection, owner=owner, key=key, fingerprint=fingerprint, job_id=job_id)
    if earlier is None:
        return None
    earlier_fingerprint, earlier_job_id = earlier
    if earlier_fingerprint != fingerprint:
        raise IdempotencyConflict(key)
    return _find(connection, owner, earlier_job_id)


def _insert(
    connection: Connection,
    job_id: str,
    owner: str,
    *,
    submission: JobSubmission,
    checked: Checked,
    assignments: Sequence[Assignment],
) -> JobRow:
    values = {
        "id": job_id,
        "owner": owner,
        "status": JobStatus.QUEUED.value,
        "name": submission.name,
        "metadata": dict(submission.metadata),
        "config": dict(checked.validation.config),
        "steps": dump_steps([StepView(name, StepStatus.PENDING) for name in checked.validation.steps]),
        "progress": dump_progress(Progress()),
        "training_file": submission.training_file,
        "validation_file": submission.validation_file,
        "calibration_file": checked.calibration_file,
        "input_job": submission.input_job,
        "num_gpus": checked.num_gpus,
        "required_keys": dict(checked.required_keys),
        "priority": submission.priority,
        "max_attempts": submission.max_attempts,
        "max_runtime_seconds": submission.max_runtime_seconds,
        "keep_days": submission.keep_days,
        "attempt": 0,
        "failures": 0,
        "last_seq": 1,
        "traceparent": submission.traceparent,
        "gpus": [],
        "worker_id": assignments[0].worker_id if assignments else None,
    }
    return repository.insert_job(connection, values, event=NewEvent("job.queued"))


def _name_references(job: JobRow) -> JobSubmission:
    """What a stored job refers to, as its submission named it."""
    return JobSubmission(
        config={"quantization_dataset_id": job.calibration_file},
        training_file=job.training_file,
        validation_file=job.validation_file,
        input_job=job.input_job,
        resources=Resources(job.num_gpus),
    )
