"""Runs a pump beside the job until the job is over and all is pumped, whatever fails meanwhile."""

import logging
import threading
from typing import Protocol

from app.context_thread import ContextThread
from app.jobs.errors import LeaseLost
from worker.lease_keeper import LeaseKeeper

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
_MAX_PAUSE_SECONDS = 5.0


class Pump(Protocol):
    """Carries what a job writes to where it is kept."""

    def pump(self, *, is_final: bool) -> bool:
        """Carries what is there; returns True when there is more. A failure loses nothing: the next call repeats."""
        ...


class PumpThread:
    """Calls one pump about ten times a second. Failures of disk, database and Redis are logged and tried again."""

    def __init__(self, pump: Pump, *, keeper: LeaseKeeper, name: str) -> None:
        self._pump = pump
        self._keeper = keeper
        self._name = name
        self._job_ended = threading.Event()
        self._given_up = threading.Event()
        self._thread = ContextThread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts to pump."""
        self._thread.start()

    def finish(self, *, timeout_seconds: float | None = None) -> bool:
        """Pumps the rest now that nobody writes any more; returns False when that took too long and was given up."""
        self._job_ended.set()
        self._thread.join(timeout_seconds)
        is_done = not self._thread.is_alive()
        self._given_up.set()
        return is_done

    def abandon(self) -> None:
        """Ends the thread without pumping the rest: the job is no longer ours."""
        self._given_up.set()
        self._job_ended.set()

    def _run(self) -> None:
        pause_seconds = _TICK_SECONDS
        while not self._given_up.is_set() and not self._keeper.is_lost:
            is_final = self._job_ended.is_set()
            try:
                has_more = self._pump.pump(is_final=is_final)
            except LeaseLost:
                self._keeper.mark_lost()
                return
            # The pump must outlive a full disk, a database that is away and whatever their libraries raise then.
            except Exception as error:  # noqa: BLE001
                logger.warning("%s: %s: %s", self._name, type(error).__name__, error)
                pause_seconds = min(pause_seconds * 2, _MAX_PAUSE_SECONDS)
                self._given_up.wait(pause_seconds)
                continue
            pause_seconds = _TICK_SECONDS
            if has_more:
                continue
            if is_final:
                return
            self._job_ended.wait(_TICK_SECONDS)
