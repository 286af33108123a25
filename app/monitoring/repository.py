"""The SQL on figures of the whole installation: a few bounded queries over indexes, of no owner in particular."""

from collections.abc import Mapping

from sqlalchemy import Connection, case, func, or_, select

from app.db.clock import db_now
from app.db.models import jobs, webhook_deliveries
from app.jobs.counter_names import PRIORITY_CLASSES
from app.monitoring.views import QueueFigures, Speed
from app.states import JobStatus

_MOST_DELIVERIES = 100_000
"""Counting stops here: a queue of that length needs no finer figure."""


def read_queue(connection: Connection) -> Mapping[str, QueueFigures]:
    """The queued jobs by class of priority, every class among them."""
    low, normal, high = PRIORITY_CLASSES
    priority_class = case((jobs.c.priority < 0, low), (jobs.c.priority > 0, high), else_=normal)
    since = func.coalesce(jobs.c.queued_at, jobs.c.created_at)
    could_begin = or_(jobs.c.not_before.is_(None), jobs.c.not_before <= db_now())
    oldest_age = db_now() - func.min(case((could_begin, since)))
    query = select(priority_class.label("name"), func.count().label("num_jobs"), oldest_age.label("age"))
    rows = connection.execute(query.where(jobs.c.status == JobStatus.QUEUED.value).group_by(priority_class))
    found = {row.name: QueueFigures(row.num_jobs, max(0.0, row.age or 0.0)) for row in rows}
    return {name: found.get(name, QueueFigures(0, 0.0)) for name in PRIORITY_CLASSES}


def read_speeds(connection: Connection) -> tuple[Speed, ...]:
    """Tokens per second of the running jobs, added up by worker and step: no more series than there are slots, and no
    id of a job, which would make a new one for each."""
    query = select(jobs.c.worker_id, jobs.c.step, jobs.c.progress)
    totals: dict[tuple[str, str], float] = {}
    for row in connection.execute(query.where(jobs.c.status == JobStatus.RUNNING.value)):
        speed = row.progress.get("tokens_per_second")
        if row.worker_id is not None and row.step is not None and speed is not None:
            totals[row.worker_id, row.step] = totals.get((row.worker_id, row.step), 0.0) + speed
    return tuple(Speed(worker_id, step, total) for (worker_id, step), total in sorted(totals.items()))


def count_pending_deliveries(connection: Connection) -> int:
    """Webhook messages that wait for their first or their next try."""
    pending = select(webhook_deliveries.c.id).where(webhook_deliveries.c.next_try_at.is_not(None))
    return connection.execute(select(func.count()).select_from(pending.limit(_MOST_DELIVERIES).subquery())).scalar_one()
