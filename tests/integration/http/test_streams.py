"""Streams replay what was, follow what is, resume without loss, and end."""

import os
import signal
import time
from contextlib import contextmanager
from itertools import islice

import pytest

from tests.integration.http.conftest import iterate_frames

SSE = {"accept": "text/event-stream"}


@contextmanager
def open_stream(client, path, **headers):
    with client.stream("GET", path, headers={**SSE, **headers}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield iterate_frames(response)


@pytest.fixture(scope="module")
def client(live_server):
    with live_server.make_client() as client:
        yield client


def test_a_stream_replays_then_follows_and_ends_with_the_job(live_server, client):
    job = live_server.start_job(client)
    job.emit("step.started")
    with open_stream(client, f"/v1/jobs/{job.id}/events") as frames:
        assert [frame.event for frame in islice(frames, 3)] == ["job.queued", "job.running", "step.started"]
        started = time.monotonic()
        job.emit("metrics", "progress")
        assert [frame.event for frame in islice(frames, 2)] == ["metrics", "progress"]
        assert time.monotonic() - started < 1.0
        job.finish()
        *rest, last = frames
    assert [frame.event for frame in rest] == ["job.succeeded"]
    assert (last.event, last.data) == ("end", {"status": "succeeded"})


def test_a_stream_taken_up_again_repeats_and_misses_nothing(live_server, client):
    job = live_server.start_job(client)
    with open_stream(client, f"/v1/jobs/{job.id}/events") as frames:
        last = list(islice(frames, 2))[-1]
    job.emit(*["progress"] * 5)
    job.finish()
    with open_stream(client, f"/v1/jobs/{job.id}/events", **{"last-event-id": last.id}) as frames:
        ids = [int(frame.id) for frame in frames if frame.event != "end"]
    assert ids == list(range(int(last.id) + 1, int(last.id) + 7))


def test_the_stream_of_metrics_leaves_out_the_rest(live_server, client):
    job = live_server.start_job(client)
    with open_stream(client, f"/v1/jobs/{job.id}/metrics") as frames:
        job.emit("progress", "metrics", "progress", "metrics")
        assert [frame.event for frame in islice(frames, 2)] == ["metrics", "metrics"]
        job.finish()
        assert [frame.event for frame in frames] == ["end"]


def test_log_lines_come_from_storage_then_live(live_server, client):
    job = live_server.start_job(client)
    job.log(1, "one", "two")
    job.log(3, "three", stored=False)
    with open_stream(client, f"/v1/jobs/{job.id}/logs") as frames:
        assert [frame.data["text"] for frame in islice(frames, 3)] == ["one", "two", "three"]
        started = time.monotonic()
        job.log(4, "four", stored=False)
        assert next(frames).id == "1-4"
        assert time.monotonic() - started < 1.0
        job.log(3, "three", "four", live=False)
        job.finish()
        assert [frame.event for frame in frames] == ["end"]


def test_a_hole_in_the_live_log_is_filled_from_storage(live_server, client):
    job = live_server.start_job(client)
    job.log(1, "one")
    with open_stream(client, f"/v1/jobs/{job.id}/logs") as frames:
        assert next(frames).id == "1-1"
        job.log(2, "two", live=False)
        job.log(3, "three")
        assert [frame.id for frame in islice(frames, 2)] == ["1-2", "1-3"]
        job.finish()
        assert [frame.event for frame in frames] == ["end"]


def test_many_streams_of_one_job_all_see_everything(live_server, client):
    job = live_server.start_job(client)
    with live_server.make_client() as other:
        opened = [open_stream(one, f"/v1/jobs/{job.id}/events") for one in (client, other, client)]
        streams = [context.__enter__() for context in opened]
        job.emit(*["progress"] * 400)
        job.finish()
        seen = [[frame.id for frame in frames] for frames in streams]
        for context in opened:
            context.__exit__(None, None, None)
    assert seen == [[str(number) for number in range(1, 404)] + [None]] * 3


def test_a_retried_job_goes_on_in_the_same_stream(live_server, client):
    job = live_server.start_job(client)
    job.finish("failed")
    assert client.post(f"/v1/jobs/{job.id}/retry").status_code == 200
    with open_stream(client, f"/v1/jobs/{job.id}/events") as frames:
        assert [frame.event for frame in islice(frames, 4)][-2:] == ["job.failed", "job.queued"]
        client.post(f"/v1/jobs/{job.id}/cancel")
        assert [frame.event for frame in frames] == ["job.cancelled", "end"]


def test_waiting_answers_as_soon_as_the_job_is_over(live_server, client):
    from concurrent.futures import ThreadPoolExecutor

    job = live_server.start_job(client)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, f"/v1/jobs/{job.id}", params={"wait": 30})
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.3)
        started = time.monotonic()
        job.finish()
        assert waiting.result(timeout=10).json()["status"] == "succeeded"
    assert time.monotonic() - started < 1.0


def test_waiting_ends_with_its_time(live_server, client):
    job = live_server.start_job(client)
    assert client.get(f"/v1/jobs/{job.id}", params={"wait": 0.2}).json()["status"] == "running"


def test_waiters_and_streams_hold_no_thread(live_server, client):
    import asyncio

    import httpx2

    job = live_server.start_job(client)

    async def ask_among_waiters():
        async with httpx2.AsyncClient(base_url=client.base_url, headers=client.headers, timeout=30) as many:
            path = f"/v1/jobs/{job.id}"
            waiting = [asyncio.create_task(many.get(path, params={"wait": 3})) for _ in range(80)]
            await asyncio.sleep(0.5)
            started = time.monotonic()
            await many.get("/v1/jobs")
            seconds = time.monotonic() - started
            await asyncio.gather(*waiting)
            return seconds

    assert asyncio.run(ask_among_waiters()) < 1.0


def test_without_redis_a_stream_follows_the_database(server):
    with server.make_client() as client:
        job = server.start_job(client)
        with open_stream(client, f"/v1/jobs/{job.id}/events") as frames:
            assert len(list(islice(frames, 2))) == 2
            started = time.monotonic()
            job.emit("metrics")
            assert next(frames).event == "metrics"
            assert time.monotonic() - started < 2.5
            job.finish()
            assert [frame.event for frame in frames] == ["job.succeeded", "end"]


def test_a_stop_ends_open_streams_without_an_end_event_and_exits_with_0(start_server, valkey_url):
    stopping = start_server(redis_url=valkey_url)
    with stopping.make_client() as client:
        job = stopping.start_job(client)
        with open_stream(client, f"/v1/jobs/{job.id}/events") as frames:
            assert len(list(islice(frames, 2))) == 2
            started = time.monotonic()
            os.kill(stopping.process.pid, signal.SIGTERM)
            assert list(frames) == []
        assert stopping.process.wait(10) == 0
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("path", "after"),
    [("events", "x"), ("events", "1-2"), ("metrics", "-1"), ("logs", "7"), ("logs", "a-b"), ("events", "9" * 40)],
)
def test_a_place_that_is_none_is_an_error_that_says_what_it_should_be(live_server, client, path, after):
    job = live_server.start_job(client)
    answer = client.get(f"/v1/jobs/{job.id}/{path}", params={"after": after})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, "after")


def test_a_stream_of_a_foreign_job_is_not_found(live_server, client):
    job = live_server.start_job(client)
    with live_server.make_client("bob") as bob:
        assert bob.get(f"/v1/jobs/{job.id}/events", headers=SSE).status_code == 404
