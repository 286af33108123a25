"""What keeps jobs moving without anybody asking: waiting ones are sent out, lost ones are taken back."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import Connection, update

from app.db.clock import db_now
from app.db.models import workers
from app.db.session import transaction
from app.jobs import fleet, limits, records, repository, rounds, transitions
from app.jobs.dispatch import Assignment, Plan, plan
from app.jobs.operations import JobOperations
from app.jobs.rooms import Host, default_num_gpus
from app.jobs.rows import JobRow
from app.states import JobStatus
from app.stored_event import StoredEvent

_MAX_RECLAIMED = 100
_MIN_WAITING_PER_SIZE = 64


class ReconcilerSide(JobOperations):
    """Every method may run in any number of processes at once."""

    def reclaim_expired(self) -> list[str]:
        """Takes back running jobs whose lease ran out: queued again, failed after too many losses, or cancelled or
        paused if that was asked for. Returns their ids.

        After a time in which nobody called this, the database was away or this host slept, and the leases that look
        expired could not be renewed: then nothing is taken back for the length of a lease.
        """
        with transaction(self._sessions) as connection:
            round_ = rounds.begin_round(connection, lease_seconds=self.lease_seconds)
        if not round_.may_reclaim:
            return []
        with transaction(self._sessions) as connection:
            # By the clock of the round's begin: should the database stand still from here on, leases do not run out.
            expired = repository.lock_expired_jobs(connection, at=round_.began_at, limit=_MAX_RECLAIMED)
            stored = self._take_back(connection, expired)
        self._publish(stored)
        return [event.job_id for event in stored]

    def expire_leases_of(self, worker_id: str) -> list[str]:
        """Takes back all jobs of a worker that is known to be dead, at once. Returns their ids."""
        with transaction(self._sessions) as connection:
            connection.execute(update(workers).where(workers.c.id == worker_id).values(departed_at=db_now()))
            fleet.withdraw_dispatches_to(connection, worker_id)
            held = repository.lock_jobs_of_worker(connection, worker_id, limit=_MAX_RECLAIMED)
            stored = self._take_back(connection, held)
        self._publish(stored)
        return [event.job_id for event in stored]

    def dispatch_ready(self) -> list[Assignment]:
        """Sends waiting jobs, by priority then age, to live workers with room; sends silent wake-ups again.

        Where the settings say so, running jobs are asked to make room for waiting ones of a higher priority.
        """
        with transaction(self._sessions) as connection:
            hosts = fleet.lock_live_hosts(connection, live_seconds=self._settings.lease_seconds)
            if not hosts:
                return []
            planned = self._plan(connection, hosts)
            fleet.mark_dispatched(connection, planned.assignments)
            stored = _ask_for_room(connection, planned)
        self._publish(stored)
        self._wake(planned.assignments)
        return planned.assignments

    def _plan(self, connection: Connection, hosts: Sequence[Host]) -> Plan:
        redispatch_seconds = self._settings.redispatch_seconds
        num_slots = sum(host.slots for host in hosts)
        occupants = fleet.list_occupants(
            connection, default_num_gpus=default_num_gpus(hosts), redispatch_seconds=redispatch_seconds
        )
        running_limits = limits.list_running_limits(connection, settings=self._settings)
        waiting = fleet.lock_waiting(
            connection,
            redispatch_seconds=redispatch_seconds,
            limit_per_size=max(_MIN_WAITING_PER_SIZE, 2 * num_slots),
            besides_owners=running_limits.list_full(Counter(occupant.owner for occupant in occupants)),
        )
        return plan(waiting, hosts, occupants, limits=running_limits, preempts=self._settings.preemption)

    def _take_back(self, connection: Connection, lost: Sequence[JobRow]) -> list[StoredEvent]:
        stored: list[StoredEvent] = []
        for job in lost:
            change = transitions.lose_lease(job, backoff_seconds=self._settings.retry_backoff_seconds)
            stored += repository.apply_change(connection, job, change) or []
            records.close_attempt(connection, job, kind="lost", outcome=None)
        return stored


def _ask_for_room(connection: Connection, planned: Plan) -> list[StoredEvent]:
    stored: list[StoredEvent] = []
    for victim, waiting in planned.victims.items():
        job = repository.lock_job(connection, victim)
        if job is not None and job.status is JobStatus.RUNNING and job.preempt_requested_at is None:
            change = transitions.request_preemption(job, for_job=waiting)
            stored += repository.apply_change(connection, job, change) or []
    return stored
