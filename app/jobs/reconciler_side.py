"""What keeps jobs moving without anybody asking: waiting ones are sent out, lost ones are taken back."""

from sqlalchemy import Connection, update

from app.db.clock import db_now
from app.db.models import workers
from app.db.session import transaction
from app.jobs import fleet, records, repository, transitions
from app.jobs.dispatch import Assignment, default_num_gpus, plan
from app.jobs.operations import JobOperations
from app.stored_event import StoredEvent

_MAX_RECLAIMED = 100
_MIN_WAITING_PER_SIZE = 64


class ReconcilerSide(JobOperations):
    """Every method is one transaction, and may run in any number of processes at once."""

    def reclaim_expired(self) -> list[str]:
        """Takes back running jobs whose lease ran out: queued again, failed after too many losses, or cancelled if
        that was asked for. Returns their ids."""
        with transaction(self._sessions) as connection:
            stored = _reclaim(connection, worker_id=None)
        self._publish(stored)
        return [event.job_id for event in stored]

    def expire_leases_of(self, worker_id: str) -> list[str]:
        """Takes back all jobs of a worker that is known to be dead, at once. Returns their ids."""
        with transaction(self._sessions) as connection:
            connection.execute(update(workers).where(workers.c.id == worker_id).values(departed_at=db_now()))
            fleet.withdraw_dispatches_to(connection, worker_id)
            stored = _reclaim(connection, worker_id=worker_id)
        self._publish(stored)
        return [event.job_id for event in stored]

    def dispatch_ready(self) -> list[Assignment]:
        """Sends waiting jobs, by priority then age, to live workers with room; sends silent wake-ups again."""
        redispatch_seconds = self._settings.redispatch_seconds
        with transaction(self._sessions) as connection:
            hosts = fleet.lock_live_hosts(connection, live_seconds=self._settings.lease_seconds)
            if not hosts:
                return []
            num_slots = sum(host.slots for host in hosts)
            waiting = fleet.lock_waiting(
                connection,
                redispatch_seconds=redispatch_seconds,
                limit_per_size=max(_MIN_WAITING_PER_SIZE, 2 * num_slots),
            )
            if not waiting:
                return []
            occupants = fleet.list_occupants(
                connection, default_num_gpus=default_num_gpus(hosts), redispatch_seconds=redispatch_seconds
            )
            assignments = plan(waiting, hosts, occupants)
            fleet.mark_dispatched(connection, assignments)
        self._wake(assignments)
        return assignments


def _reclaim(connection: Connection, *, worker_id: str | None) -> list[StoredEvent]:
    stored: list[StoredEvent] = []
    for job in repository.lock_expired_jobs(connection, worker_id=worker_id, limit=_MAX_RECLAIMED):
        change = transitions.lose_lease(job)
        stored += repository.apply_change(connection, job, change) or []
        records.close_attempt(connection, job, kind=change.outcome or "lost", outcome=None)
    return stored
