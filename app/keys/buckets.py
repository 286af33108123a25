"""Token buckets in this process's memory: how often somebody may do something."""

import threading
import time
from collections.abc import Callable

MAX_BURST = 600
"""Most calls at once: a limit of thousands a minute is spread over the minute."""
_MAX_BUCKETS = 10_000


class Buckets:
    """One bucket a name; each holds a minute's calls, at most `MAX_BURST`, and is filled evenly over the minute.

    So within the first minute nearly twice the limit may pass. Safe in threads and in an event loop: never blocks
    for more than a few instructions.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` in seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, name: str, *, per_minute: int) -> float:
        """Takes one call; 0 when it may pass, else the seconds until the next one may."""
        with self._lock:
            now, level = self._read(name, per_minute)
            if level < 1:
                return (1 - level) * 60 / per_minute
            if len(self._levels) >= _MAX_BUCKETS and name not in self._levels:
                self._forget_full(now)
            self._levels[name] = (level - 1, now)
            return 0.0

    def seconds_to_wait(self, name: str, *, per_minute: int) -> float:
        """As `take`, but takes nothing."""
        with self._lock:
            _, level = self._read(name, per_minute)
            return 0.0 if level >= 1 else (1 - level) * 60 / per_minute

    def _read(self, name: str, per_minute: int) -> tuple[float, float]:
        now, burst = self._clock(), float(min(per_minute, MAX_BURST))
        level, since = self._levels.get(name, (burst, now))
        return now, min(burst, level + (now - since) * per_minute / 60)

    def _forget_full(self, now: float) -> None:
        """After a minute of silence every bucket is full, as one that was never used. If none is, all are forgotten."""
        self._levels = {name: (level, since) for name, (level, since) in self._levels.items() if now - since < 60}
        if len(self._levels) >= _MAX_BUCKETS:
            self._levels.clear()
