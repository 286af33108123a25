"""Token buckets: how often somebody may do something."""

import threading

import pytest

from app.keys import buckets
from app.keys.buckets import MAX_BURST, Buckets


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("per_minute", "burst"), [(1, 1), (60, 60), (6000, MAX_BURST)])
def test_a_bucket_holds_a_minute_but_no_endless_burst(per_minute: int, burst: int) -> None:
    limited = Buckets(clock=Clock())
    assert [limited.take("a", per_minute=per_minute) for _ in range(burst)] == [0.0] * burst
    assert limited.take("a", per_minute=per_minute) == pytest.approx(60 / per_minute)
    assert limited.take("b", per_minute=per_minute) == 0.0


def test_who_waits_as_long_as_told_may_go_on() -> None:
    clock = Clock()
    limited = Buckets(clock=clock)
    for _ in range(10):
        assert limited.take("a", per_minute=10) == 0.0
    seconds = limited.take("a", per_minute=10)
    clock.now += seconds - 0.01
    assert limited.take("a", per_minute=10) > 0
    clock.now += 0.02
    assert limited.take("a", per_minute=10) == 0.0


def test_a_refused_call_costs_nothing_and_a_look_takes_nothing() -> None:
    clock = Clock()
    limited = Buckets(clock=clock)
    limited.take("a", per_minute=1)
    first = [limited.take("a", per_minute=1) for _ in range(5)]
    assert first == [first[0]] * 5
    assert [limited.seconds_to_wait("b", per_minute=1) for _ in range(5)] == [0.0] * 5


def test_over_a_long_time_no_more_passes_than_the_limit() -> None:
    clock = Clock()
    limited = Buckets(clock=clock)
    passed = 0
    for _ in range(60_000):
        clock.now += 0.01
        passed += limited.take("a", per_minute=120) == 0.0
    assert passed == pytest.approx(10 * 120 + 120, abs=2)


def test_names_that_were_never_seen_again_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the test would have to fill thousands of buckets.
    monkeypatch.setattr(buckets, "_MAX_BUCKETS", 100)
    clock = Clock()
    limited = Buckets(clock=clock)
    limited.take("busy", per_minute=1)
    for number in range(1000):
        clock.now += 1
        limited.take(f"guest {number}", per_minute=10)
    assert len(limited._levels) <= 100


def test_threads_do_not_pass_more_than_the_bucket_holds() -> None:
    limited = Buckets(clock=Clock())
    passed: list[int] = []

    def call() -> None:
        passed.append(sum(limited.take("a", per_minute=100) == 0.0 for _ in range(50)))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(passed) == 100
