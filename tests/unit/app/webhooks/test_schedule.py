"""When a message is sent again."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest

from app.webhooks.schedule import DELAYS_SECONDS, MAX_TRIES, find_delay

NOW = 1_800_000_000.0
HOUR = 3600
IN_TWO_HOURS = format_datetime(datetime.fromtimestamp(NOW + 2 * HOUR, UTC), usegmt=True)


def test_delays_are_those_of_the_standard_give_or_take_a_tenth() -> None:
    hours = (2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
    assert (5, 300, 1800, *hours) == DELAYS_SECONDS
    for tries, expected in enumerate(DELAYS_SECONDS, start=1):
        found = [find_delay(tries, status=500, retry_after=None, now=NOW) for _ in range(50)]
        assert all(delay is not None and abs(delay - expected) <= expected / 10 for delay in found)
        assert len(set(found)) > 1
    assert find_delay(MAX_TRIES, status=500, retry_after=None, now=NOW) is None


@pytest.mark.parametrize(
    ("status", "retry_after", "expected"),
    [
        (429, "7200", 2 * HOUR),
        (503, "7200", 2 * HOUR),
        (503, IN_TWO_HOURS, 2 * HOUR),
        (503, "Mon, 01 Jan 2024 00:00:00 -0000", 5),
        (503, "0", 5),
        (503, "999999999999999999999", 24 * HOUR),
        (503, "soon", 5),
        (503, "-7200", 5),
        (503, "٣", 5),
        (500, "7200", 5),
        (None, None, 5),
    ],
)
def test_a_busy_receiver_says_when_to_come_back(status: int | None, retry_after: str | None, expected: float) -> None:
    assert find_delay(1, status=status, retry_after=retry_after, now=NOW) == pytest.approx(expected, rel=0.11)


def test_even_a_busy_receiver_is_given_up_in_the_end() -> None:
    assert find_delay(MAX_TRIES, status=503, retry_after="60", now=NOW) is None
