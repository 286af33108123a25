"""When a message that did not arrive is sent again."""

import random
from datetime import UTC
from email.utils import parsedate_to_datetime

DELAYS_SECONDS = (5.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
"""Between two tries, as Standard Webhooks recommends; the first one goes out at once."""
MAX_TRIES = len(DELAYS_SECONDS) + 1
_JITTER = 0.1
_LONGEST_WAIT_SECONDS = 86_400.0
_BUSY_STATUSES = frozenset({429, 503})


def find_delay(tries: int, *, status: int | None, retry_after: str | None, now: float) -> float | None:
    """Seconds from the failed try number `tries` to the next; None when there is none.

    A receiver that is busy (429, 503) and says when to come back is not asked earlier; at most a day later.
    """
    if tries >= MAX_TRIES:
        return None
    # Receivers that went down together are not all asked again at once.
    delay = DELAYS_SECONDS[tries - 1] * random.uniform(1 - _JITTER, 1 + _JITTER)
    asked = _parse_retry_after(retry_after, now=now) if status in _BUSY_STATUSES and retry_after else 0.0
    return max(delay, min(asked, _LONGEST_WAIT_SECONDS))


def _parse_retry_after(text: str, *, now: float) -> float:
    """Seconds from `now`, of a number or a date; 0 for anything else."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp() - now
