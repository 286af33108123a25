"""The SQL on what is to be removed from storage: written together with the row that is removed or about to be made."""

from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from app.db.clock import db_now
from app.db.models import storage_removals
from app.ids import new_id

STRAGGLER_SECONDS = 24 * 3600.0
"""When a job's keys are removed once more: a worker that had lost the job may have written after the first time."""
CLAIM_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Removal:
    """What lies under `storage_key`, or below it, is to be removed after `not_before` (unix seconds)."""

    id: str
    storage_key: str
    not_before: float


def schedule_removal(connection: Connection, storage_key: str, *, after_seconds: float = 0.0) -> Removal:
    """Writes down that a key has to go. Committed with what makes it garbage, it is removed whatever crashes."""
    values = {"id": new_id("rem"), "storage_key": storage_key, "not_before": db_now() + after_seconds}
    row = connection.execute(insert(storage_removals).values(values).returning(*storage_removals.c)).one()
    return Removal(**row._mapping)


def schedule_job_removal(connection: Connection, job_id: str) -> None:
    """All that a job has in storage: at once, and once more for what stragglers write."""
    schedule_removal(connection, f"jobs/{job_id}")
    schedule_removal(connection, f"jobs/{job_id}", after_seconds=STRAGGLER_SECONDS)


def withdraw_removal(connection: Connection, removal: Removal) -> bool:
    """Keeps the key after all; False when its time had come and somebody is removing it."""
    same = (storage_removals.c.id == removal.id, storage_removals.c.not_before == removal.not_before)
    return connection.execute(delete(storage_removals).where(*same)).rowcount == 1


def has_due_removals(connection: Connection) -> bool:
    """True when `claim_due_removals` would find one."""
    due = select(storage_removals.c.id).where(storage_removals.c.not_before <= db_now())
    return connection.execute(due.limit(1)).first() is not None


def claim_due_removals(connection: Connection, *, limit: int) -> list[Removal]:
    """Takes some whose time has come; who takes them and dies leaves them to others after a minute."""
    due = (
        select(storage_removals.c.id)
        .where(storage_removals.c.not_before <= db_now())
        .order_by(storage_removals.c.not_before)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    ids = list(connection.execute(due).scalars())
    statement = (
        update(storage_removals)
        .where(storage_removals.c.id.in_(ids))
        .values(not_before=db_now() + CLAIM_SECONDS)
        .returning(*storage_removals.c)
    )
    return [Removal(**row._mapping) for row in connection.execute(statement)]


def postpone_removal(connection: Connection, removal: Removal, *, seconds: float) -> None:
    """Tries again later."""
    statement = update(storage_removals).where(storage_removals.c.id == removal.id)
    connection.execute(statement.values(not_before=db_now() + seconds))


def forget_removal(connection: Connection, removal: Removal) -> None:
    """It is removed."""
    connection.execute(delete(storage_removals).where(storage_removals.c.id == removal.id))
