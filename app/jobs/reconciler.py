"""The loop that sends waiting jobs out and takes lost ones back; any number of copies may run."""

import logging
import threading
import time
from collections.abc import Callable, Sequence

from sqlalchemy.exc import SQLAlchemyError

from app.jobs.service import JobService

logger = logging.getLogger(__name__)


class Reconciler:
    """Calls the service about once a second, until it is told to stop."""

    def __init__(
        self, service: JobService, interval_seconds: float, *, chores: Sequence[Callable[[], object]] = ()
    ) -> None:
        """`chores`: what else has to be looked after as often; each may raise the database's errors."""
        self._service = service
        self._chores = tuple(chores)
        self._interval_seconds = interval_seconds
        self._reclaim_from = 0.0
        self._last_tick_at = time.time()

    def run(self, stop_event: threading.Event) -> None:
        """Returns when `stop_event` is set. A database that is away is waited for."""
        while not stop_event.is_set():
            try:
                self.tick()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("the database did not answer the reconciler: %s", error)
                self._hold_reclaims()
            stop_event.wait(self._interval_seconds)

    def tick(self) -> None:
        """One round: reclaim, dispatch, then the chores. Raises the database's errors."""
        now = time.time()
        if now - self._last_tick_at > max(5.0, 3 * self._interval_seconds):
            # This host slept, or hung: so may have the workers.
            self._hold_reclaims()
        self._last_tick_at = now
        if time.monotonic() >= self._reclaim_from:
            for job_id in self._service.reclaim_expired():
                logger.warning("lease of %s ran out", job_id)
        self._service.dispatch_ready()
        for chore in self._chores:
            chore()

    def _hold_reclaims(self) -> None:
        """After an outage every lease looks expired: workers get one lease's time to renew theirs first."""
        self._reclaim_from = time.monotonic() + self._service.lease_seconds
