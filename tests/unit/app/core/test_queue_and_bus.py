"""Wake-ups and live streams on a real Valkey, also when it is dead."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from app.bus import AsyncBus, Bus, StreamEntry, event_stream, log_stream
from app.queue import WakeupQueue, broker_url, queue_name
from app.stored_event import StoredEvent
from tests.support.valkey import ValkeyProcess, run_valkey


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyProcess]:
    with run_valkey() as server:
        yield server


def event(seq: int, attempt: int = 1) -> StoredEvent:
    return StoredEvent("job-1", seq, attempt, "metrics", "train", "info", "", {"loss": 1.0}, 5.0)


def read_all(url: str, stream: str) -> list[StreamEntry]:
    async def read() -> list[StreamEntry]:
        bus = AsyncBus(url)
        try:
            return await bus.read({stream: "0"}, 10)
        finally:
            await bus.close()

    return asyncio.run(read())


def test_wake_up_names_task_job_and_worker(valkey: ValkeyProcess) -> None:
    queue = WakeupQueue(valkey.url)
    assert queue.send("job-1", "wrk-1") is True
    with redis.Redis.from_url(valkey.url) as client:
        [message] = client.lrange("finesmith:" + queue_name("wrk-1"), 0, -1)  # type: ignore[misc]
    assert json.loads(message)["headers"]["task"] == "finesmith.run_job"
    assert "job-1" in json.loads(message)["headers"]["argsrepr"]
    queue.close()


def test_wake_up_of_a_dead_broker_costs_little_and_only_once(tmp_path: Path) -> None:
    queue = WakeupQueue(f"unix://{tmp_path}/none.sock")
    started_at = time.monotonic()
    assert queue.send("job-1", "wrk-1") is False
    first_seconds = time.monotonic() - started_at
    assert [queue.send("job-1", "wrk-1") for _ in range(100)] == [False] * 100
    assert first_seconds < 1.0
    assert time.monotonic() - started_at - first_seconds < 0.2
    queue.close()


def test_unix_sockets_are_spelled_as_celery_does() -> None:
    assert broker_url("unix:///run/v.sock") == "redis+socket:///run/v.sock"
    assert broker_url("redis://host:6379/1") == "redis://host:6379/1"


def test_events_arrive_under_their_attempt_and_number(valkey: ValkeyProcess) -> None:
    bus = Bus(valkey.url)
    bus.publish_events("job-1", [event(1), event(2)])
    bus.publish_events("job-1", [event(2), event(3)])
    entries = read_all(valkey.url, event_stream("job-1"))
    assert [entry.id for entry in entries] == ["1-1", "1-2", "1-3"]
    assert json.loads(entries[0].fields["event"])["data"] == {"loss": 1.0}
    bus.close()


def test_stale_attempt_cannot_publish(valkey: ValkeyProcess) -> None:
    bus = Bus(valkey.url)
    bus.publish_events("job-2", [event(4, attempt=2)])
    bus.publish_events("job-2", [event(5, attempt=1)])
    assert [entry.id for entry in read_all(valkey.url, event_stream("job-2"))] == ["2-4"]
    bus.close()


def test_log_batches_carry_their_first_line(valkey: ValkeyProcess) -> None:
    bus = Bus(valkey.url)
    bus.publish_log("job-1", 1, 1, ["a", "b"])
    bus.publish_log("job-1", 1, 3, ["c"])
    bus.publish_log("job-1", 1, 4, [])
    entries = read_all(valkey.url, log_stream("job-1"))
    assert [(entry.id, entry.fields["first_line"]) for entry in entries] == [("1-2", "1"), ("1-3", "3")]
    assert json.loads(entries[0].fields["lines"]) == ["a", "b"]
    bus.close()


def test_publishing_to_a_dead_server_is_quick_and_quiet(tmp_path: Path) -> None:
    bus = Bus(f"unix://{tmp_path}/none.sock")
    started_at = time.monotonic()
    for seq in range(100):
        bus.publish_events("job-1", [event(seq + 1)])
    assert time.monotonic() - started_at < 1.0
    bus.close()


def test_server_that_comes_back_is_used_again() -> None:
    with run_valkey() as server:
        queue, bus = WakeupQueue(server.url), Bus(server.url)
        assert queue.send("job-1", "wrk-1")
        server.kill()
        assert not queue.send("job-1", "wrk-1")
        bus.publish_events("job-1", [event(1)])
        server.start()
        queue._breaker.reset()  # the pause of 5 s is over
        bus._breaker.reset()
        assert queue.send("job-1", "wrk-1")
        bus.publish_events("job-1", [event(2)])
        assert [entry.id for entry in read_all(server.url, event_stream("job-1"))] == ["1-2"]
        queue.close()
        bus.close()


def test_server_that_accepts_and_never_answers_costs_half_a_second() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        queue = WakeupQueue(f"redis://127.0.0.1:{silent.getsockname()[1]}")
        started_at = time.monotonic()
        assert queue.send("job-1", "wrk-1") is False
        assert time.monotonic() - started_at < 0.9
        queue.close()
