"""When a call may be tried again and how long to wait before: decisions only, no I/O."""

import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from finesmith.errors import APIConnectionError, APIError, InternalServerError, RateLimitError

RETRIED_STATUSES = frozenset({408, 500, 502, 503, 504})
"""Statuses after which a call that does no harm when repeated is tried again."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how patiently failed calls are repeated."""

    max_retries: int = 3
    """Tries after the first one; 0 switches retries off."""
    initial_delay_seconds: float = 0.5
    """Delay before the first retry; doubled for each further one."""
    max_delay_seconds: float = 8.0
    """Upper bound of that delay."""
    max_retry_after_seconds: float = 60.0
    """A `Retry-After` up to this is waited for; a longer one ends the retries, so that no call hangs for long."""
    max_outage_seconds: float = 300.0
    """How long `wait`, followed streams and downloads outlive a service that does not answer, such as its restart."""

    def delay_seconds(self, num_failures: int) -> float:
        """Delay before the next try after `num_failures` failures in a row (1 or more), spread over its upper half
        so that many clients do not return in step."""
        full = min(self.initial_delay_seconds * 2.0 ** min(num_failures - 1, 30), self.max_delay_seconds)
        return full * random.uniform(0.5, 1.0)

    def delay_after_status(
        self, status_code: int, *, num_failures: int, idempotent: bool, retry_after_seconds: float | None
    ) -> float | None:
        """Seconds before the same call is sent again, or None when its answer stands.

        429 was not carried out, so it is repeated for every call. 409 is repeated only where the service says so
        with Retry-After: the first try with the same idempotency key is still on its way.
        """
        wanted = status_code == 429 or (idempotent and status_code in RETRIED_STATUSES)
        wanted = wanted or (idempotent and status_code == 409 and retry_after_seconds is not None)
        if not wanted or num_failures > self.max_retries:
            return None
        if retry_after_seconds is None:
            return self.delay_seconds(num_failures)
        return retry_after_seconds if retry_after_seconds <= self.max_retry_after_seconds else None

    def delay_after_disconnect(self, *, num_failures: int, idempotent: bool, was_sent: bool) -> float | None:
        """Seconds before the same call is sent again after no answer came, or None when it must not be repeated:
        a call that may have been carried out and is not idempotent is not."""
        if num_failures > self.max_retries or (was_sent and not idempotent):
            return None
        return self.delay_seconds(num_failures)


class Outage:
    """Counts failures in a row of something that should outlive a restart of the service."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._since: float | None = None
        self.num_failures = 0

    def delay_after(self, error: APIError, *, now: float | None = None) -> float:
        """Seconds to wait before the next try.

        Raises the given error when it will not go away by itself, or when the outage lasts longer than
        `max_outage_seconds`. `now` is a monotonic time.
        """
        if not isinstance(error, APIConnectionError | InternalServerError | RateLimitError):
            raise error
        now = time.monotonic() if now is None else now
        self._since = now if self._since is None else self._since
        self.num_failures += 1
        if now - self._since >= self._policy.max_outage_seconds:
            raise error
        return self._policy.delay_seconds(self.num_failures)

    def end(self) -> None:
        """To be called after each success."""
        self._since = None
        self.num_failures = 0


def parse_retry_after(value: str | None, *, now: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, given as seconds or as an HTTP date; None for none or nonsense.

    `now` is in Unix seconds.
    """
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - (time.time() if now is None else now)
        except (ValueError, TypeError):
            return None
    return max(seconds, 0.0) if seconds == seconds and seconds != float("inf") else None
