"""Shows the worker to the service: registers it, says every few seconds that it lives, takes its leave."""

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from app.jobs.workers import GpuReading, WorkerInfo, WorkerService
from worker.catalogue import LoadedCatalogue

logger = logging.getLogger(__name__)

_MAX_HEARTBEAT_SECONDS = 10.0
_RETRY_SECONDS = 1.0


class Presence:
    """Two threads of the worker's main process. A database that is away is tried again until it answers."""

    def __init__(
        self,
        service: WorkerService,
        *,
        info: WorkerInfo,
        load_catalogue: Callable[[], LoadedCatalogue],
        heartbeat_seconds: float,
        read_gpus: Callable[[], Sequence[GpuReading]] = tuple,
    ) -> None:
        self._service = service
        self._info = info
        self._load_catalogue = load_catalogue
        self._read_gpus = read_gpus
        self._heartbeat_seconds = min(heartbeat_seconds, _MAX_HEARTBEAT_SECONDS)
        self._leaving = threading.Event()
        self._is_changed = threading.Event()
        self._on_left: Callable[[], None] = _do_nothing
        self._threads = [
            threading.Thread(target=self._run, name="presence", daemon=True),
            threading.Thread(target=self._complete_catalogue, name="catalogue", daemon=True),
        ]

    def start(self) -> None:
        """Registers with what every worker can do, and again once the plugins are known: no job waits for them."""
        for thread in self._threads:
            thread.start()

    def leave(self, on_left: Callable[[], None]) -> None:
        """Tells the service that no job should be sent here any more, then calls `on_left`, also when nobody heard.

        Returns at once: a signal handler may call it.
        """
        self._on_left = on_left
        self._leaving.set()
        self._is_changed.set()

    def join(self, timeout_seconds: float) -> None:
        """Waits until the service knows that the worker has left."""
        self._threads[0].join(timeout_seconds)

    def _complete_catalogue(self) -> None:
        loaded = self._load_catalogue()
        catalogue = loaded.catalogue or self._info.catalogue
        if catalogue.digest != self._info.catalogue.digest or loaded.plugin_errors:
            self._info = replace(self._info, catalogue=catalogue, plugin_errors=loaded.plugin_errors)
            self._is_changed.set()

    def _run(self) -> None:
        try:
            self._stay()
            self._service.retire(self._info.id)
        # A worker must be able to stop while the database is away.
        except Exception as error:  # noqa: BLE001
            logger.warning("the service does not know yet that this worker leaves: %s", error)
        finally:
            self._on_left()

    def _stay(self) -> None:
        is_registered = False
        while not self._leaving.is_set():
            is_registered = is_registered and not self._is_changed.is_set()
            self._is_changed.clear()
            try:
                if is_registered:
                    is_registered = self._service.heartbeat(self._info.id, gpu_readings=self._read_gpus())
                else:
                    self._service.register(self._info)
                    is_registered = True
            # Whatever a database or its driver raises while it is away, or before it has its tables.
            except Exception as error:  # noqa: BLE001
                logger.warning("the service does not hear this worker: %s: %s", type(error).__name__, error)
                self._leaving.wait(_RETRY_SECONDS)
            else:
                self._is_changed.wait(self._heartbeat_seconds if is_registered else 0)


def _do_nothing() -> None:
    return
