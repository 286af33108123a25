"""The SQL on workers, their catalogues and the room that jobs take on them."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue
from sqlalchemy import Connection, Row, and_, insert, or_, select, update

from app.db.clock import db_now
from app.db.models import catalogues, jobs, workers
from app.jobs.dispatch import Assignment
from app.jobs.rooms import Host, Occupant, Waiting
from app.states import JobStatus

_QUEUED, _RUNNING = JobStatus.QUEUED.value, JobStatus.RUNNING.value


_occupant_columns = (
    *(jobs.c.id, jobs.c.owner, jobs.c.status, jobs.c.priority),
    *(jobs.c.worker_id, jobs.c.num_gpus, jobs.c.gpus),
)
_is_leaving = or_(
    jobs.c.cancel_requested_at.is_not(None),
    jobs.c.pause_requested_at.is_not(None),
    jobs.c.preempt_requested_at.is_not(None),
).label("is_leaving")


def lock_live_hosts(connection: Connection, *, live_seconds: float, worker_id: str | None = None) -> list[Host]:
    """Workers that showed themselves lately, locked; without `worker_id` those locked by others are left out."""
    query = (
        select(workers.c.id, workers.c.gpus, workers.c.slots, catalogues.c.registries)
        .join(catalogues, catalogues.c.digest == workers.c.catalogue_digest)
        .where(workers.c.departed_at.is_(None), workers.c.last_seen_at > db_now() - live_seconds)
        .order_by(workers.c.id)
        .with_for_update(of=workers, skip_locked=worker_id is None)
    )
    if worker_id is not None:
        query = query.where(workers.c.id == worker_id)
    return [
        Host(
            worker_id=row.id,
            gpus=tuple(gpu["index"] for gpu in row.gpus),
            slots=row.slots,
            keys={registry: frozenset(keys) for registry, keys in row.registries.items()},
        )
        for row in connection.execute(query)
    ]


def list_occupants(
    connection: Connection, *, default_num_gpus: int, redispatch_seconds: float, besides: str | None = None
) -> list[Occupant]:
    """The jobs that hold room on workers: running ones, and those sent there not long ago; `besides` one job."""
    sent = and_(jobs.c.status == _QUEUED, jobs.c.dispatched_at > db_now() - redispatch_seconds)
    query = select(*_occupant_columns, _is_leaving).where(or_(jobs.c.status == _RUNNING, sent))
    if besides is not None:
        query = query.where(jobs.c.id != besides)
    return [
        Occupant(
            row.worker_id,
            default_num_gpus if row.num_gpus is None else row.num_gpus,
            tuple(row.gpus),
            job_id=row.id,
            owner=row.owner,
            priority=row.priority,
            is_running=row.status == _RUNNING,
            is_leaving=row.is_leaving,
        )
        for row in connection.execute(query)
        if row.worker_id is not None
    ]


def lock_waiting(
    connection: Connection, *, redispatch_seconds: float, limit_per_size: int, besides_owners: Sequence[str] = ()
) -> list[Waiting]:
    """Queued jobs not sent yet or sent in vain, highest rank first; at most so many of each number of GPUs. Those that
    wait out a failure are left out.

    The limit is per number of GPUs, so that a heap of jobs that fit nowhere hides none that would.
    """
    unsent = and_(
        jobs.c.status == _QUEUED,
        or_(jobs.c.dispatched_at.is_(None), jobs.c.dispatched_at <= db_now() - redispatch_seconds),
        or_(jobs.c.not_before.is_(None), jobs.c.not_before <= db_now()),
        jobs.c.owner.not_in(besides_owners),
    )
    columns = (jobs.c.id, jobs.c.num_gpus, jobs.c.required_keys, jobs.c.owner, jobs.c.priority)
    found: list[Row[str, int | None, dict[str, str], str, int]] = []
    for num_gpus in connection.execute(select(jobs.c.num_gpus).where(jobs.c.status == _QUEUED).distinct()).scalars():
        size = jobs.c.num_gpus.is_(None) if num_gpus is None else jobs.c.num_gpus == num_gpus
        query = (
            select(*columns)
            .where(unsent, size)
            .order_by(jobs.c.priority.desc(), jobs.c.id)
            .limit(limit_per_size)
            .with_for_update(skip_locked=True)
        )
        found.extend(connection.execute(query).all())
    found.sort(key=lambda row: (-row.priority, row.id))
    return [Waiting(row.id, row.num_gpus, row.required_keys, row.owner, row.priority) for row in found]


def mark_dispatched(connection: Connection, assignments: Sequence[Assignment]) -> None:
    """Notes on queued jobs which worker was woken for them, now."""
    for assignment in assignments:
        connection.execute(
            update(jobs)
            .where(jobs.c.id == assignment.job_id, jobs.c.status == _QUEUED)
            .values(worker_id=assignment.worker_id, dispatched_at=db_now())
        )


def withdraw_dispatch(connection: Connection, job_id: str) -> None:
    """Makes a queued job wait for the next round: the worker it was sent to has no room."""
    connection.execute(
        update(jobs).where(jobs.c.id == job_id, jobs.c.status == _QUEUED).values(worker_id=None, dispatched_at=None)
    )


def withdraw_dispatches_to(connection: Connection, worker_id: str) -> None:
    """Makes the queued jobs that were sent to a dead worker wait for the next round."""
    connection.execute(
        update(jobs)
        .where(jobs.c.worker_id == worker_id, jobs.c.status == _QUEUED)
        .values(worker_id=None, dispatched_at=None)
    )


def list_announced_gpu_counts(connection: Connection, *, announced_seconds: float) -> list[int]:
    """Number of GPUs of each worker that announced itself in the given time."""
    query = select(workers.c.gpus).where(workers.c.last_seen_at > db_now() - announced_seconds)
    return [len(gpus) for gpus in connection.execute(query).scalars()]


def list_plugin_errors(connection: Connection, *, live_seconds: float) -> list[tuple[str, str]]:
    """(plugin, message) of every plugin that failed on a worker that is online, each once."""
    query = select(workers.c.plugin_errors).where(
        workers.c.departed_at.is_(None),
        workers.c.last_seen_at > db_now() - live_seconds,
        workers.c.plugin_errors.is_not(None),
    )
    found = [error for errors in connection.execute(query.order_by(workers.c.id)).scalars() for error in errors]
    return list(dict.fromkeys((error["plugin"], error["message"]) for error in found))


def list_announced_catalogues(
    connection: Connection, *, announced_seconds: float
) -> list[tuple[Mapping[str, list[str]], Mapping[str, JsonValue]]]:
    """(registries, configs) of every catalogue that a worker announced in the given time, oldest first."""
    seen = select(workers.c.catalogue_digest).where(workers.c.last_seen_at > db_now() - announced_seconds)
    query = select(catalogues).where(catalogues.c.digest.in_(seen)).order_by(catalogues.c.created_at)
    return [(row.registries, row.configs) for row in connection.execute(query)]


def store_catalogue(
    connection: Connection, *, digest: str, registries: Mapping[str, Sequence[str]], configs: Mapping[str, object]
) -> None:
    """Keeps a catalogue under its digest, once."""
    known = connection.execute(select(catalogues.c.digest).where(catalogues.c.digest == digest)).first()
    if known is None:
        connection.execute(
            insert(catalogues).values(digest=digest, registries=registries, configs=configs, created_at=db_now())
        )
