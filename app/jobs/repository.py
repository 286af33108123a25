"""The SQL on job rows: read by their owner, locked by their fence, changed together with their events."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Double,
    Select,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from app.db.clock import db_now
from app.db.models import events, idempotency_keys, jobs, webhook_deliveries
from app.ids import is_id
from app.jobs.commands import NewEvent
from app.jobs.outbox import ToldJob, insert_messages
from app.jobs.rows import JobRow, dump_error, parse_row
from app.jobs.storable import make_storable, make_text_storable
from app.jobs.transitions import Change
from app.jobs.views import LeaseView, StopRequest
from app.states import UNFINISHED_STATUSES, JobStatus
from app.stored_event import StoredEvent

_UNFINISHED = tuple(status.value for status in UNFINISHED_STATUSES)
_QUEUED, _RUNNING = JobStatus.QUEUED.value, JobStatus.RUNNING.value
_select_job = select(*jobs.c, db_now().label("now"))

# Statements that every request runs are built once: building one of this many columns takes longer than running it.
_insert_job = insert(jobs).values(created_at=db_now()).returning(jobs.c.created_at)
_insert_dispatched_job = _insert_job.values(dispatched_at=db_now())
_insert_event = insert(events)
_take_key = {
    dialect.dialect.name: dialect.insert(idempotency_keys)
    .values(created_at=db_now())
    .on_conflict_do_nothing()
    .returning(idempotency_keys.c.key)
    for dialect in (postgresql, sqlite)
}
_find_job = _select_job.where(jobs.c.id == bindparam("job_id"), jobs.c.owner == bindparam("job_owner"))
_lock_owned_job = _find_job.with_for_update(of=jobs)
_lock_job = _select_job.where(jobs.c.id == bindparam("job_id")).with_for_update(of=jobs)
_lock_running_job = _lock_job.where(jobs.c.attempt == bindparam("job_attempt"), jobs.c.status == _RUNNING)
_has_undispatched_job = select(
    exists().where(
        jobs.c.status == _QUEUED,
        jobs.c.dispatched_at.is_(None),
        or_(jobs.c.not_before.is_(None), jobs.c.not_before <= db_now()),
    )
)
_renew_lease = (
    update(jobs)
    .where(jobs.c.id == bindparam("job_id"), jobs.c.attempt == bindparam("job_attempt"), jobs.c.status == _RUNNING)
    .values(lease_expires_at=db_now() + bindparam("lease_seconds", type_=Double()))
    .returning(
        jobs.c.preempt_requested_at,
        jobs.c.pause_requested_at,
        jobs.c.cancel_requested_at,
        jobs.c.discard_requested_at,
    )
)


def insert_job(connection: Connection, values: Mapping[str, Any], *, event: NewEvent) -> JobRow:
    """Inserts a queued job, made now, and its first event. With a `worker_id` it counts as sent there now."""
    statement = _insert_job if values["worker_id"] is None else _insert_dispatched_job
    now = connection.execute(statement, values).scalar_one()
    stored = _insert_events(connection, values["id"], [event], attempt=0, first_seq=1, now=now)
    told = ToldJob(**{name: values[name] for name in ("id", "owner", "status", "name", "metadata")}, error=None)
    insert_messages(connection, told, stored, now=now)
    absent = dict.fromkeys(column.name for column in jobs.c)
    dispatched_at = None if values["worker_id"] is None else now
    return parse_row({**absent, **values, "created_at": now, "dispatched_at": dispatched_at, "now": now})


def find_job(connection: Connection, job_id: str, *, owner: str) -> JobRow | None:
    """The owner's job."""
    return _first(connection, _find_job, job_id=job_id, job_owner=owner)


def lock_job(connection: Connection, job_id: str, *, owner: str | None = None) -> JobRow | None:
    """The job, locked until the transaction ends; `owner` None is for workers and the reconciler."""
    if owner is None:
        return _first(connection, _lock_job, job_id=job_id)
    return _first(connection, _lock_owned_job, job_id=job_id, job_owner=owner)


def lock_running_job(connection: Connection, job_id: str, *, attempt: int) -> JobRow | None:
    """The job, locked, if this attempt still holds it."""
    return _first(connection, _lock_running_job, job_id=job_id, job_attempt=attempt)


def lock_expired_jobs(connection: Connection, *, at: float, limit: int) -> list[JobRow]:
    """Running jobs whose lease had run out at that time; those that somebody else has locked are left out."""
    return _lock_running_jobs(connection, jobs.c.lease_expires_at < at, limit=limit)


def lock_jobs_of_worker(connection: Connection, worker_id: str, *, limit: int) -> list[JobRow]:
    """Jobs that the worker runs; those that somebody else has locked are left out."""
    return _lock_running_jobs(connection, jobs.c.worker_id == worker_id, limit=limit)


def list_jobs(
    connection: Connection, *, owner: str, after: str | None, limit: int, status: JobStatus | None
) -> list[JobRow]:
    """The owner's jobs, newest first, beginning with the next older than `after`."""
    query = _select_job.where(jobs.c.owner == owner)
    if status is not None:
        query = query.where(jobs.c.status == status.value)
    if after is not None:
        query = query.where(jobs.c.id < make_text_storable(after))
    rows = connection.execute(query.order_by(jobs.c.id.desc()).limit(limit))
    return [parse_row(row._mapping) for row in rows]


def apply_change(connection: Connection, job: JobRow, change: Change) -> list[StoredEvent] | None:
    """Writes a change and its events as one compare-and-set on the state and the fence of `job`.

    None when the row is no longer as `job` says. Events are numbered in the same statement, so that a number is
    never left out or given twice.
    """
    values = {**change.values, "last_seq": jobs.c.last_seq + len(change.events)}
    statement = (
        update(jobs)
        .where(jobs.c.id == job.id, jobs.c.status == job.status.value, jobs.c.attempt == job.attempt)
        .values(values)
        .returning(jobs.c.last_seq, jobs.c.attempt, db_now())
    )
    if change.values.get("status") == _RUNNING:
        statement = statement.where(jobs.c.cancel_requested_at.is_(None))
    row = connection.execute(statement).first()
    if row is None:
        return None
    last_seq, attempt, now = row
    first_seq = last_seq - len(change.events) + 1
    stored = _insert_events(connection, job.id, change.events, attempt=attempt, first_seq=first_seq, now=now)
    insert_messages(connection, _tell(job, change), stored, now=now)
    return stored


def renew_lease(connection: Connection, job_id: str, *, attempt: int, lease_seconds: float) -> LeaseView | None:
    """Extends the lease from now; None when the attempt lost the job."""
    parameters = {"job_id": job_id, "job_attempt": attempt, "lease_seconds": lease_seconds}
    row = connection.execute(_renew_lease, parameters).first()
    if row is None:
        return None
    standing = [request for request, requested_at in zip(StopRequest, row, strict=True) if requested_at is not None]
    return LeaseView(standing[-1] if standing else None)


def delete_job(connection: Connection, job: JobRow) -> None:
    """Removes the job with all that hangs on it, its idempotency keys and what webhooks were to tell of it."""
    connection.execute(delete(idempotency_keys).where(idempotency_keys.c.job_id == job.id))
    connection.execute(delete(webhook_deliveries).where(webhook_deliveries.c.job_id == job.id))
    connection.execute(delete(jobs).where(jobs.c.id == job.id))


def find_unfinished_among(connection: Connection, job_ids: Sequence[str]) -> set[str]:
    """Those of the jobs that are there and have not ended."""
    query = select(jobs.c.id).where(jobs.c.id.in_(job_ids), jobs.c.status.in_(_UNFINISHED))
    return set(connection.execute(query).scalars())


def find_unfinished_dependent(connection: Connection, job: JobRow) -> str | None:
    """An unfinished job that reads the artifacts of this one."""
    query = select(jobs.c.id).where(jobs.c.input_job == job.id, jobs.c.status.in_(_UNFINISHED)).limit(1)
    return connection.execute(query).scalar()


def find_unfinished_user_of_file(connection: Connection, file_id: str, *, owner: str) -> str | None:
    """An unfinished job of the owner that needs the file."""
    uses = or_(jobs.c.training_file == file_id, jobs.c.validation_file == file_id, jobs.c.calibration_file == file_id)
    query = select(jobs.c.id).where(jobs.c.owner == owner, jobs.c.status.in_(_UNFINISHED), uses).limit(1)
    return connection.execute(query).scalar()


def take_idempotency_key(
    connection: Connection, *, owner: str, key: str, fingerprint: str, job_id: str
) -> tuple[str, str] | None:
    """Takes the key for `job_id`; (fingerprint, job id) of the earlier submission when it is taken.

    On PostgreSQL a second submission waits here until the first has committed or rolled back.
    """
    values = {"owner": owner, "key": key, "fingerprint": fingerprint, "job_id": job_id}
    if connection.execute(_take_key[connection.dialect.name], values).first() is not None:
        return None
    query = select(idempotency_keys.c.fingerprint, idempotency_keys.c.job_id)
    row = connection.execute(query.where(idempotency_keys.c.owner == owner, idempotency_keys.c.key == key)).one()
    return row.fingerprint, row.job_id


def count_jobs_by_status(connection: Connection) -> dict[str, int]:
    """Number of jobs in each state, of all owners."""
    rows = connection.execute(select(jobs.c.status, func.count().label("num_jobs")).group_by(jobs.c.status))
    return {row.status: row.num_jobs for row in rows}


def has_undispatched_job(connection: Connection) -> bool:
    """True when some queued job has not been sent to a worker yet."""
    return bool(connection.execute(_has_undispatched_job).scalar())


def _lock_running_jobs(connection: Connection, condition: ColumnElement[bool], *, limit: int) -> list[JobRow]:
    query = _select_job.where(jobs.c.status == _RUNNING, condition).limit(limit)
    rows = connection.execute(query.with_for_update(of=jobs, skip_locked=True))
    return [parse_row(row._mapping) for row in rows]


def _insert_events(
    connection: Connection, job_id: str, new: Sequence[NewEvent], *, attempt: int, first_seq: int, now: float
) -> list[StoredEvent]:
    if not new:
        return []
    stored = [
        StoredEvent(
            job_id=job_id,
            seq=first_seq + index,
            attempt=attempt,
            type=event.type,
            step=event.step,
            level=event.level,
            message=make_text_storable(event.message),
            data={key: make_storable(value) for key, value in event.data.items()},
            created_at=now if event.created_at is None else event.created_at,
        )
        for index, event in enumerate(new)
    ]
    connection.execute(_insert_event, [{name: getattr(event, name) for name in _EVENT_COLUMNS} for event in stored])
    return stored


def _tell(job: JobRow, change: Change) -> ToldJob:
    """The job as it is after the change."""
    return ToldJob(
        id=job.id,
        owner=job.owner,
        status=change.values.get("status", job.status.value),
        name=job.name,
        metadata=job.metadata,
        error=change.values["error"] if "error" in change.values else dump_error(job.error),
    )


_EVENT_COLUMNS = tuple(column.name for column in events.c)


def _first(connection: Connection, statement: Select[Any], *, job_id: str, **parameters: str | int) -> JobRow | None:
    if not is_id(job_id, "job"):
        return None
    row = connection.execute(statement, {"job_id": job_id, **parameters}).first()
    return None if row is None else parse_row(row._mapping)
