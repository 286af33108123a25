"""Decides when a running job is asked to stop and when it is killed."""

import time
from collections.abc import Callable

from app.jobs.views import StopRequest
from worker.drain import DrainFlag
from worker.exit_status import StopReason
from worker.lease_keeper import LeaseKeeper


class JobWatch:
    """Watches one job from now on. The first reason to stop stays, but a cancel or the end of its time outweighs what
    only puts the job off. A job whose owner wants no last checkpoint is killed at once.
    """

    def __init__(
        self,
        *,
        keeper: LeaseKeeper,
        drain: DrainFlag,
        max_runtime_seconds: float | None,
        grace_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keeper = keeper
        self._drain = drain
        self._clock = clock
        self._ends_at = None if max_runtime_seconds is None else clock() + max_runtime_seconds
        self._grace_seconds = grace_seconds
        self._kill_at: float | None = None
        self.stop_reason: StopReason | None = None
        """Why the job was asked to stop; None while it was not."""

    def find_reason(self) -> StopReason | None:
        """Returns why the job should stop now, or None."""
        request = self._keeper.stop_request
        if request in (StopRequest.CANCEL, StopRequest.DISCARD):
            return StopReason.CANCEL
        if self._ends_at is not None and self._clock() >= self._ends_at:
            return StopReason.MAX_RUNTIME
        return StopReason.PUT_OFF if request is not None or self._drain.is_set else None

    def is_stop_due(self) -> bool:
        """True once: when the job is to be asked to stop. The grace begins then."""
        reason = self.find_reason()
        if reason is None:
            return False
        is_first = self.stop_reason is None
        if is_first:
            self._kill_at = self._clock() + self._grace_seconds
        if self.stop_reason in (None, StopReason.PUT_OFF):
            self.stop_reason = reason
        return is_first

    def is_kill_due(self) -> bool:
        """True when the job had its grace and goes on, or gets none."""
        if self._keeper.stop_request is StopRequest.DISCARD:
            return True
        return self._kill_at is not None and self._clock() >= self._kill_at
