"""The SQL on what is old enough to go, of all owners; each query finds a bounded number."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, Float, and_, cast, delete, exists, func, or_, select, update

from app.db.clock import db_now
from app.db.models import files, idempotency_keys, jobs, previews, workers
from app.states import FINAL_STATUSES, UNFINISHED_STATUSES

DAY_SECONDS = 24 * 3600.0
_FINAL = tuple(status.value for status in FINAL_STATUSES)
_UNFINISHED = tuple(status.value for status in UNFINISHED_STATUSES)
_followers = jobs.alias("followers")


@dataclass(frozen=True, slots=True)
class OldFile:
    """An upload that nobody needs any more."""

    id: str
    owner: str
    storage_key: str


def lock_old_jobs(connection: Connection, *, keep_days: float | None, limit: int) -> list[str]:
    """Jobs that ended longer ago than they are kept, locked; not those that an unfinished one goes on from.

    `keep_days`: of jobs that say nothing themselves; None keeps these for ever.
    """
    kept_days = jobs.c.keep_days if keep_days is None else func.coalesce(jobs.c.keep_days, cast(keep_days, Float))
    is_needed = exists().where(_followers.c.input_job == jobs.c.id, _followers.c.status.in_(_UNFINISHED))
    query = (
        select(jobs.c.id)
        .where(jobs.c.status.in_(_FINAL), jobs.c.finished_at < db_now() - kept_days * DAY_SECONDS, ~is_needed)
        .order_by(jobs.c.finished_at)
        .limit(limit)
        .with_for_update(of=jobs, skip_locked=True)
    )
    return list(connection.execute(query).scalars())


def lock_old_files(connection: Connection, *, keep_days: float, limit: int) -> list[OldFile]:
    """Files that were uploaded longer ago and that no job and no waiting preview refers to, locked."""
    query = (
        select(files.c.id, files.c.owner, files.c.storage_key)
        .where(files.c.created_at < db_now() - keep_days * DAY_SECONDS, ~_is_referred_to())
        .order_by(files.c.created_at)
        .limit(limit)
        .with_for_update(of=files, skip_locked=True)
    )
    found = {row.id: OldFile(**row._mapping) for row in connection.execute(query)}
    # Once more, now that they are locked: a submission that refers to one may have been stored in between.
    still = select(files.c.id).where(files.c.id.in_(found), ~_is_referred_to())
    return [found[file_id] for file_id in connection.execute(still).scalars()] if found else []


def delete_old_idempotency_keys(connection: Connection, *, keep_days: float, limit: int) -> int:
    """Forgets what submissions and uploads were called by clients that would have repeated them long since."""
    cutoff = db_now() - keep_days * DAY_SECONDS
    old = select(idempotency_keys.c.job_id).where(idempotency_keys.c.created_at < cutoff).limit(limit)
    statement = delete(idempotency_keys).where(
        idempotency_keys.c.job_id.in_(old), idempotency_keys.c.created_at < cutoff
    )
    deleted = connection.execute(statement).rowcount
    named = select(files.c.id).where(files.c.created_at < cutoff, files.c.idempotency_key.is_not(None)).limit(limit)
    statement_of_files = update(files).where(files.c.id.in_(named)).values(idempotency_key=None)
    return deleted + connection.execute(statement_of_files).rowcount


def delete_departed_workers(connection: Connection, *, keep_days: float) -> int:
    """Forgets workers that were last seen long ago and hold no job."""
    holds_a_job = exists().where(jobs.c.worker_id == workers.c.id, jobs.c.status.in_(_UNFINISHED))
    statement = delete(workers).where(workers.c.last_seen_at < db_now() - keep_days * DAY_SECONDS, ~holds_a_job)
    return connection.execute(statement).rowcount


def _is_referred_to() -> ColumnElement[bool]:
    used = [
        files.c.id.in_(select(column).where(column.is_not(None)))
        for column in (jobs.c.training_file, jobs.c.validation_file, jobs.c.calibration_file)
    ]
    waiting = select(previews.c.file_id).where(previews.c.finished_at.is_(None))
    return and_(or_(*used, files.c.id.in_(waiting)))
