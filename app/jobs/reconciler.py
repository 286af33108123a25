"""The loop that sends waiting jobs out and takes lost ones back; any number of copies may run."""

import logging
import threading
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

    def run(self, stop_event: threading.Event) -> None:
        """Returns when `stop_event` is set. A database that is away is waited for."""
        while not stop_event.is_set():
            try:
                self.tick()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("the database did not answer the reconciler: %s", error)
            stop_event.wait(self._interval_seconds)

    def tick(self) -> None:
        """One round: reclaim, dispatch, then the chores. Raises the database's errors."""
        for job_id in self._service.reclaim_expired():
            logger.warning("lease of %s ran out", job_id)
        self._service.dispatch_ready()
        for chore in self._chores:
            chore()
