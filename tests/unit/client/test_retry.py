"""When calls are repeated, decided without a network."""

import pytest
from finesmith import APIConnectionError, APIProblem, NotFoundError, RetryPolicy
from finesmith.retry import Outage, parse_retry_after

POLICY = RetryPolicy(max_retries=3, initial_delay_seconds=1.0, max_delay_seconds=4.0, max_outage_seconds=60.0)


@pytest.mark.parametrize(
    ("status_code", "idempotent", "retry_after_seconds", "is_repeated"),
    [
        (500, True, None, True),
        (503, True, None, True),
        (408, True, None, True),
        (500, False, None, False),  # it may have been carried out
        (429, False, None, True),  # it was not carried out
        (409, True, 1.0, True),  # the first try with this key is on its way
        (409, True, None, False),  # a conflict stays one
        (409, False, 1.0, False),
        (501, True, None, False),  # will not be there a second later
        (404, True, None, False),
        (422, True, None, False),
        (200, True, None, False),
        (429, True, 3600.0, False),  # longer than anyone wants a call to hang
    ],
)
def test_a_status_is_repeated_only_where_that_helps_and_does_no_harm(
    status_code: int, idempotent: bool, retry_after_seconds: float | None, is_repeated: bool
) -> None:
    delay = POLICY.delay_after_status(
        status_code, num_failures=1, idempotent=idempotent, retry_after_seconds=retry_after_seconds
    )
    assert (delay is not None) == is_repeated


@pytest.mark.parametrize(
    ("idempotent", "was_sent", "is_repeated"),
    [(True, True, True), (True, False, True), (False, False, True), (False, True, False)],
)
def test_a_lost_call_is_repeated_unless_it_may_have_done_harm(
    idempotent: bool, was_sent: bool, is_repeated: bool
) -> None:
    delay = POLICY.delay_after_disconnect(num_failures=1, idempotent=idempotent, was_sent=was_sent)
    assert (delay is not None) == is_repeated


def test_retries_end() -> None:
    assert POLICY.delay_after_disconnect(num_failures=3, idempotent=True, was_sent=True) is not None
    assert POLICY.delay_after_disconnect(num_failures=4, idempotent=True, was_sent=True) is None
    assert POLICY.delay_after_status(500, num_failures=4, idempotent=True, retry_after_seconds=None) is None


@pytest.mark.parametrize(("num_failures", "full"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 4.0), (5000, 4.0)])
def test_delays_double_up_to_their_bound_and_are_spread(num_failures: int, full: float) -> None:
    delays = [POLICY.delay_seconds(num_failures) for _ in range(200)]
    assert full / 2 <= min(delays) < full * 0.6
    assert full * 0.9 < max(delays) <= full


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-2", 0.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:10 GMT", 0.0),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_as_seconds_or_as_a_date(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, now=60.0) == seconds


def test_an_outage_ends_in_its_error_only_after_its_bound() -> None:
    outage, error = Outage(POLICY), APIConnectionError("away")
    for now in (0.0, 30.0, 59.9):
        assert outage.delay_after(error, now=now) > 0
    with pytest.raises(APIConnectionError):
        outage.delay_after(error, now=60.0)


def test_a_success_ends_an_outage() -> None:
    outage, error = Outage(POLICY), APIConnectionError("away")
    outage.delay_after(error, now=0.0)
    outage.end()
    assert outage.delay_after(error, now=100.0) <= 1.0


def test_what_will_not_go_away_is_no_outage() -> None:
    with pytest.raises(NotFoundError):
        Outage(POLICY).delay_after(NotFoundError(APIProblem(404, "no such job")), now=0.0)
