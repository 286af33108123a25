"""A call that hangs is made once, and nobody waits for it longer than they want to."""

import asyncio
import threading

import pytest

from app.api.single_flight import SingleFlight


def test_a_call_that_hangs_is_made_once_and_its_late_answer_is_taken():
    go_on, calls = threading.Event(), []

    def call() -> int:
        calls.append(1)
        assert go_on.wait(10)
        return 7

    async def ask() -> None:
        flight = SingleFlight(call, name="test")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await flight.run(timeout_seconds=0.01)
        waiting = [asyncio.create_task(flight.run(timeout_seconds=10)) for _ in range(3)]
        await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(*waiting) == [7, 7, 7]
        assert len(calls) == 1
        assert await flight.run(timeout_seconds=10) == 7
        assert len(calls) == 2

    asyncio.run(ask())


def test_what_the_call_raises_reaches_who_asked_and_the_next_call_is_a_new_one():
    def call() -> None:
        raise ValueError("broken")

    async def ask() -> None:
        flight = SingleFlight(call, name="test")
        for _ in range(2):
            with pytest.raises(ValueError, match="broken"):
                await flight.run(timeout_seconds=10)

    asyncio.run(ask())
