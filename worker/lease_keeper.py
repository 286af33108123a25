"""Keeps a job's lease while it runs, and learns from it whether the job was cancelled or taken away."""

import logging
import threading
import time

from app.context_thread import ContextThread
from app.jobs.errors import LeaseLost
from app.jobs.service import JobService
from app.jobs.views import StopRequest

logger = logging.getLogger(__name__)

_POLL_SECONDS = 1.0


class LeaseKeeper:
    """A thread that renews the lease of one attempt. A database that is away loses nothing: it goes on trying, and
    whether the lease is lost is for the database's clock to say.
    """

    def __init__(self, service: JobService, *, job_id: str, attempt: int) -> None:
        self._service = service
        self._job_id = job_id
        self._attempt = attempt
        self._stopped = threading.Event()
        self._lost = threading.Event()
        self.stop_request: StopRequest | None = None
        """What the job was asked for, by the last renewal; a pause may be taken back."""
        self._thread = ContextThread(target=self._run, name=f"lease-{job_id}", daemon=True)

    @property
    def is_lost(self) -> bool:
        """True when the job belongs to another attempt: write nothing more."""
        return self._lost.is_set()

    def mark_lost(self) -> None:
        """Says that another writer of this attempt was told that the lease is lost."""
        self._lost.set()

    def raise_if_lost(self) -> None:
        """Raises LeaseLost when the job is no longer ours."""
        if self.is_lost:
            raise LeaseLost(self._job_id, self._attempt)

    def start(self) -> None:
        """Starts to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; a renewal on its way is waited for, a few seconds at most."""
        self._stopped.set()
        self._thread.join(timeout=5.0)

    def _run(self) -> None:
        while not self._stopped.wait(_POLL_SECONDS) and not self.is_lost:
            started_at = time.monotonic()
            try:
                lease = self._service.renew(self._job_id, self._attempt)
            except LeaseLost:
                self._lost.set()
            # Whatever a database or its driver raises while it is away, the job goes on.
            except Exception as error:  # noqa: BLE001
                logger.warning("lease of %s not renewed after %.1f s: %s", self._job_id, _since(started_at), error)
            else:
                self.stop_request = lease.stop_request


def _since(started_at: float) -> float:
    return time.monotonic() - started_at
