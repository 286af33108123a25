"""Reads the installation's figures, at most once in a few seconds however often it is asked."""

import threading
import time

from app.db.session import SessionFactory, snapshot
from app.jobs import counters
from app.jobs.repository import count_jobs_by_status
from app.jobs.workers import WorkerService
from app.monitoring import repository
from app.monitoring.views import InstallationFigures

CACHE_SECONDS = 5.0


class MonitoringService:
    """Safe to use from any number of threads: one of them reads, the others wait for what it finds."""

    def __init__(
        self, sessions: SessionFactory, workers: WorkerService, *, cache_seconds: float = CACHE_SECONDS
    ) -> None:
        self._sessions = sessions
        self._workers = workers
        self._cache_seconds = cache_seconds
        self._lock = threading.Lock()
        self._cached: tuple[float, InstallationFigures] | None = None

    def read_figures(self) -> InstallationFigures:
        """The figures, a few seconds old at most. Raises the database's errors."""
        with self._lock:
            if self._cached is None or time.monotonic() - self._cached[0] >= self._cache_seconds:
                self._cached = (time.monotonic(), self._read())
            return self._cached[1]

    def _read(self) -> InstallationFigures:
        workers = tuple(self._workers.list())
        with snapshot(self._sessions) as connection:
            return InstallationFigures(
                jobs=count_jobs_by_status(connection),
                queue=repository.read_queue(connection),
                speeds=repository.read_speeds(connection),
                workers=workers,
                counters=counters.read_all(connection),
                num_pending_deliveries=repository.count_pending_deliveries(connection),
            )
