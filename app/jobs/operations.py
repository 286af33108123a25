"""What the three sides of the job service share: the database, and telling others after a commit."""

from collections.abc import Iterable, Sequence

from app.bus import Bus
from app.db.session import SessionFactory
from app.jobs.dispatch import Assignment
from app.jobs.workers import WorkerService
from app.queue import WakeupQueue
from app.secrets.cipher import build_cipher
from app.settings import Settings
from app.storage import Storage
from app.stored_event import StoredEvent


class JobOperations:
    """Base of the owner's, the worker's and the reconciler's side."""

    def __init__(
        self,
        sessions: SessionFactory,
        *,
        settings: Settings,
        storage: Storage,
        queue: WakeupQueue | None = None,
        bus: Bus | None = None,
    ) -> None:
        """Without `queue` no worker is woken, without `bus` nothing is shown live; the database is the truth."""
        self._sessions = sessions
        self._settings = settings
        self._storage = storage
        self._queue = queue
        self._bus = bus
        self._workers = WorkerService(sessions, live_seconds=settings.lease_seconds)
        self._cipher = build_cipher(settings, "job-secrets")
        self._named_secret_cipher = build_cipher(settings, "named-secrets")

    @property
    def lease_seconds(self) -> float:
        """How long a claim or a renewal holds a job."""
        return self._settings.lease_seconds

    def _publish(self, events: Iterable[StoredEvent]) -> None:
        """Shows committed events to whoever watches; best effort."""
        if self._bus is None:
            return
        by_job: dict[str, list[StoredEvent]] = {}
        for event in events:
            by_job.setdefault(event.job_id, []).append(event)
        for job_id, job_events in by_job.items():
            self._bus.publish_events(job_id, job_events)

    def _wake(self, assignments: Sequence[Assignment]) -> None:
        """Wakes workers for jobs that are committed as theirs; best effort: what is lost is sent again later."""
        if self._queue is not None:
            for assignment in assignments:
                self._queue.send(assignment.job_id, assignment.worker_id)
