"""The SQL on how many jobs of one project may wait and run: its own limits, else the installation's."""

from sqlalchemy import Connection, func, select, text

from app.db.models import jobs, projects
from app.jobs.errors import TooManyJobs
from app.jobs.rooms import RunningLimits
from app.settings import Settings
from app.states import JobStatus

_WAITING = (JobStatus.QUEUED.value, JobStatus.PAUSED.value)
_RUNNING = JobStatus.RUNNING.value


def check_room_in_queue(connection: Connection, owner: str, *, settings: Settings) -> None:
    """Raises TooManyJobs when no further job of the owner may wait. Call it in the transaction that adds one."""
    limit = connection.execute(select(projects.c.max_queued_jobs).where(projects.c.id == owner)).scalar()
    limit = settings.max_queued_jobs if limit is None else limit
    if limit is None:
        return
    _take_turns(connection, owner)
    waiting = select(func.count()).where(jobs.c.owner == owner, jobs.c.status.in_(_WAITING))
    if connection.execute(waiting).scalar_one() >= limit:
        raise TooManyJobs(limit)


def may_run_another(connection: Connection, owner: str, *, settings: Settings) -> bool:
    """Whether one more job of the owner may run. Call it in the transaction that starts one."""
    limit = connection.execute(select(projects.c.max_running_jobs).where(projects.c.id == owner)).scalar()
    limit = settings.max_running_jobs if limit is None else limit
    if limit is None:
        return True
    _take_turns(connection, owner)
    running = select(func.count()).where(jobs.c.owner == owner, jobs.c.status == _RUNNING)
    return int(connection.execute(running).scalar_one()) < limit


def list_running_limits(connection: Connection, *, settings: Settings) -> RunningLimits:
    """The limits of all projects."""
    query = select(projects.c.id, projects.c.max_running_jobs).where(projects.c.max_running_jobs.is_not(None))
    own = {row.id: row.max_running_jobs for row in connection.execute(query)}
    return RunningLimits(own, default=settings.max_running_jobs)


def _take_turns(connection: Connection, owner: str) -> None:
    """Of several transactions that count one owner's jobs before they add one, each waits for the one before it.

    On SQLite only one transaction writes at a time anyway.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:owner))"), {"owner": owner})
