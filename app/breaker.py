"""A pause after a failure, so that callers do not pay a dead server's timeout one after the other."""

import time

PAUSE_SECONDS = 5.0


class Breaker:
    """Closed at first; `trip` opens it for a pause. Safe to use from several threads."""

    def __init__(self, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._pause_seconds = pause_seconds
        self._closed_again_at = 0.0

    @property
    def is_open(self) -> bool:
        """True while nothing should be tried."""
        return time.monotonic() < self._closed_again_at

    def trip(self) -> None:
        """Opens the breaker for one pause from now."""
        self._closed_again_at = time.monotonic() + self._pause_seconds

    def reset(self) -> None:
        """Closes the breaker at once."""
        self._closed_again_at = 0.0
