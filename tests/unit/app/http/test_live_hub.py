"""The hub admits so many streams, and a queue that is full is dropped, not grown."""

import pytest

from app.api.live import NUM_QUEUED_ENTRIES, LiveHub, Subscription
from app.bus import AsyncBus, StreamEntry
from app.errors import ApiError


@pytest.fixture
def hub() -> LiveHub:
    return LiveHub(AsyncBus("unix:///nonexistent.sock"), max_streams_per_owner=2)


def test_an_owner_gets_so_many_streams_and_a_closed_one_makes_room(hub):
    with hub.admit_stream("ana"):
        with hub.admit_stream("ana"), hub.admit_stream("bob"):
            with pytest.raises(ApiError, match="2 of your event streams") as refused, hub.admit_stream("ana"):
                pass
            assert (refused.value.status_code, refused.value.code) == (429, "too_many_streams")
        with hub.admit_stream("ana"):
            pass
    assert hub._num_streams_of == {}


def test_a_stream_that_is_behind_drops_its_queue_and_says_so():
    subscription = Subscription(frozenset({"s"}))
    for number in range(10 * NUM_QUEUED_ENTRIES):
        subscription.offer(StreamEntry("s", f"1-{number}", {}))
        assert len(subscription.entries) <= NUM_QUEUED_ENTRIES
    assert subscription.is_lagging
    assert (subscription.take(), subscription.is_lagging) == ([], False)
