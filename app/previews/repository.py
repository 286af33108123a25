"""The SQL on previews: read by their owner, changed by their fence."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import JsonValue
from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, func, insert, or_, select, update

from app.db.clock import db_now
from app.db.models import catalogues, files, preview_secrets, previews, workers
from app.ids import is_id
from app.jobs.rows import dump_error, parse_error
from app.jobs.views import JobError
from app.previews.views import FINAL_PREVIEW_STATUSES, PreviewStatus, PreviewView
from app.secrets.cipher import SealedSecret

_QUEUED, _RUNNING = PreviewStatus.QUEUED.value, PreviewStatus.RUNNING.value
_FINAL = tuple(status.value for status in FINAL_PREVIEW_STATUSES)
_MAX_CANDIDATES = 500
_columns = tuple(
    previews.c[name]
    for name in (
        *("id", "status", "file_id", "num_samples", "config", "result", "error"),
        *("created_at", "started_at", "finished_at"),
    )
)


def insert_preview(connection: Connection, values: Mapping[str, Any], *, sealed: Iterable[SealedSecret]) -> PreviewView:
    """Adds a queued preview, made now, and its encrypted secrets."""
    unclaimed = {"status": _QUEUED, "attempt": 0, "failures": 0, "created_at": db_now()}
    row = connection.execute(insert(previews).values({**values, **unclaimed}).returning(*_columns)).one()
    secrets = [
        {
            "preview_id": row.id,
            "field": secret.field,
            "key_id": secret.key_id,
            "nonce": secret.nonce,
            "ciphertext": secret.ciphertext,
        }
        for secret in sealed
    ]
    if secrets:
        connection.execute(insert(preview_secrets), secrets)
    return _as_view(row._mapping)


def find_preview(connection: Connection, preview_id: str, *, owner: str) -> PreviewView | None:
    """The owner's preview with its result."""
    if not is_id(preview_id, "preview"):
        return None
    query = select(*_columns).where(previews.c.id == preview_id, previews.c.owner == owner)
    row = connection.execute(query).first()
    return None if row is None else _as_view(row._mapping)


def find_status(connection: Connection, preview_id: str, *, owner: str) -> PreviewStatus | None:
    """The state of the owner's preview, without its result, which may be large."""
    if not is_id(preview_id, "preview"):
        return None
    query = select(previews.c.status).where(previews.c.id == preview_id, previews.c.owner == owner)
    status = connection.execute(query).scalar()
    return None if status is None else PreviewStatus(status)


def count_unfinished(connection: Connection, *, owner: str) -> int:
    """How many previews of the owner wait or are rendered."""
    query = select(func.count()).where(previews.c.owner == owner, previews.c.status.in_((_QUEUED, _RUNNING)))
    return int(connection.execute(query.select_from(previews)).scalar_one())


def list_candidates(connection: Connection, *, worker_id: str) -> list[str]:
    """Ids of waiting previews whose keys the worker announces, oldest first; none when it is not registered."""
    query = select(previews.c.id, previews.c.required_keys).where(previews.c.status == _QUEUED)
    waiting = connection.execute(query.order_by(previews.c.id).limit(_MAX_CANDIDATES)).all()
    if not waiting:
        return []
    announced = connection.execute(
        select(catalogues.c.registries)
        .join(workers, workers.c.catalogue_digest == catalogues.c.digest)
        .where(workers.c.id == worker_id, workers.c.departed_at.is_(None))
    ).scalar()
    if announced is None:
        return []
    return [
        row.id
        for row in waiting
        if all(key in announced.get(registry, ()) for registry, key in row.required_keys.items())
    ]


def take(connection: Connection, preview_id: str, *, worker_id: str, lease_seconds: float) -> Mapping[str, Any] | None:
    """Gives a waiting preview to a worker: its row, or None when somebody else was faster."""
    values = {
        "status": _RUNNING,
        "attempt": previews.c.attempt + 1,
        "worker_id": worker_id,
        "lease_expires_at": db_now() + lease_seconds,
        "started_at": db_now(),
    }
    statement = update(previews).where(previews.c.id == preview_id, previews.c.status == _QUEUED).values(values)
    row = connection.execute(statement.returning(*previews.c)).first()
    return None if row is None else dict(row._mapping)


def count_rows(connection: Connection, file_id: str) -> int:
    """How many rows an uploaded file has."""
    return int(connection.execute(select(files.c.num_samples).where(files.c.id == file_id)).scalar_one())


def list_secrets(connection: Connection, preview_id: str) -> list[SealedSecret]:
    """A preview's encrypted secrets."""
    columns = (
        preview_secrets.c.field,
        preview_secrets.c.key_id,
        preview_secrets.c.nonce,
        preview_secrets.c.ciphertext,
    )
    rows = connection.execute(select(*columns).where(preview_secrets.c.preview_id == preview_id))
    return [SealedSecret(**row._mapping) for row in rows]


def renew(connection: Connection, preview_id: str, *, attempt: int, lease_seconds: float) -> bool:
    """Extends the lease from now; False when the attempt lost the preview."""
    statement = update(previews).where(_is_held(preview_id, attempt))
    return connection.execute(statement.values(lease_expires_at=db_now() + lease_seconds)).rowcount == 1


def finish(
    connection: Connection,
    preview_id: str,
    *,
    attempt: int,
    result: Mapping[str, JsonValue] | None = None,
    error: JobError | None = None,
) -> bool:
    """Ends a preview with its result or its error, and forgets its secrets; False when the attempt lost it."""
    status = PreviewStatus.SUCCEEDED if error is None else PreviewStatus.FAILED
    values = {**_ended(status, error), "result": result}
    done = connection.execute(update(previews).where(_is_held(preview_id, attempt)).values(values)).rowcount == 1
    if done:
        connection.execute(delete(preview_secrets).where(preview_secrets.c.preview_id == preview_id))
    return done


def release(connection: Connection, preview_id: str, *, attempt: int) -> None:
    """Makes a preview wait again: its worker stops."""
    connection.execute(update(previews).where(_is_held(preview_id, attempt)).values(_WAITING))


def has_overdue(connection: Connection, *, queue_seconds: float, kept_seconds: float) -> bool:
    """True when `expire` would change something."""
    overdue = or_(
        _waits_too_long(queue_seconds),
        _lost_its_lease(),
        and_(previews.c.status.in_(_FINAL), previews.c.finished_at < db_now() - kept_seconds),
    )
    return connection.execute(select(previews.c.id).where(overdue).limit(1)).first() is not None


def expire(
    connection: Connection,
    *,
    queue_seconds: float,
    kept_seconds: float,
    max_failures: int,
    not_taken: JobError,
    worker_lost: JobError,
) -> None:
    """Fails what waited too long or was lost too often, makes what was lost once wait again, forgets what is old."""
    connection.execute(
        update(previews).where(_waits_too_long(queue_seconds)).values(_ended(PreviewStatus.FAILED, not_taken))
    )
    lost_for_good = and_(_lost_its_lease(), previews.c.failures >= max_failures - 1)
    connection.execute(update(previews).where(lost_for_good).values(_ended(PreviewStatus.FAILED, worker_lost)))
    again = {**_WAITING, "failures": previews.c.failures + 1}
    connection.execute(update(previews).where(_lost_its_lease()).values(again))
    connection.execute(
        delete(previews).where(previews.c.status.in_(_FINAL), previews.c.finished_at < db_now() - kept_seconds)
    )
    over = select(previews.c.id).where(previews.c.status.in_(_FINAL))
    connection.execute(delete(preview_secrets).where(preview_secrets.c.preview_id.in_(over)))


_WAITING: Mapping[str, Any] = {
    "status": _QUEUED,
    "worker_id": None,
    "lease_expires_at": None,
    "started_at": None,
}


def _ended(status: PreviewStatus, error: JobError | None) -> dict[str, Any]:
    return {
        "status": status.value,
        "error": dump_error(error),
        "lease_expires_at": None,
        "finished_at": db_now(),
    }


def _is_held(preview_id: str, attempt: int) -> ColumnElement[bool]:
    return and_(previews.c.id == preview_id, previews.c.attempt == attempt, previews.c.status == _RUNNING)


def _waits_too_long(queue_seconds: float) -> ColumnElement[bool]:
    return and_(previews.c.status == _QUEUED, previews.c.created_at < db_now() - queue_seconds)


def _lost_its_lease() -> ColumnElement[bool]:
    return and_(previews.c.status == _RUNNING, previews.c.lease_expires_at < db_now())


def _as_view(row: RowMapping) -> PreviewView:
    values: dict[str, Any] = dict(row)
    values["status"] = PreviewStatus(values["status"])
    values["error"] = parse_error(values["error"])
    return PreviewView(**values)
