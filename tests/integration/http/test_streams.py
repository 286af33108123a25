"""Streams replay what was, follow what is, resume without loss, and end."""

import os
import signal
import socket
import time
from contextlib import ExitStack, contextmanager
from itertools import islice
from threading import Event

import pytest

from app.jobs.commands import NewEvent
from app.storage import Storage
from tests.integration.http.conftest import RunningJob, iterate_frames

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


def test_a_stream_ends_with_the_key_that_opened_it(live_server, client):
    job = live_server.start_job(client)
    _, key = live_server.keys.create("ana", "short", ("read",), expires_in_seconds=2.0)
    started = time.monotonic()
    with open_stream(client, f"/v1/jobs/{job.id}/events", authorization=f"Bearer {key}") as frames:
        assert [frame.event for frame in frames] == ["job.queued", "job.running"]
    assert 1.0 < time.monotonic() - started < 15.0
    job.finish()


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


def test_what_the_attempt_before_printed_last_is_not_missed(live_server, client):
    """Its last lines reached storage while Redis was away; the next attempt's first line comes live."""
    job = live_server.start_job(client)
    job.log(1, "one")
    with open_stream(client, f"/v1/jobs/{job.id}/logs") as frames:
        assert next(frames).id == "1-1"
        job.log(2, "two", "three", live=False)
        job.finish("requeued")
        claim = live_server.jobs.claim(job.id, live_server.worker_id)
        again = RunningJob(live_server, job.id, claim.attempt)
        again.log(1, "again", stored=False)
        assert [frame.id for frame in islice(frames, 3)] == ["1-2", "1-3", "2-1"]
        again.log(1, "again", live=False)
        again.finish()
        assert [frame.event for frame in frames] == ["end"]


def test_lines_that_storage_has_lost_are_told_as_a_gap(live_server, client):
    job = live_server.start_job(client)
    job.log(1, "one", live=False)
    job.log(2, "two", "three", live=False)
    job.log(4, "four", live=False)
    Storage(live_server.settings.storage_url).delete(f"jobs/{job.id}/logs/1/2.log")
    job.finish()
    with open_stream(client, f"/v1/jobs/{job.id}/logs") as frames:
        found = [(frame.event, frame.id, dict(frame.data).get("after")) for frame in frames]
    assert found == [("log", "1-1", None), ("gap", None, "1-1"), ("log", "1-4", None), ("end", None, None)]


def test_a_log_is_a_text_that_takes_ranges(live_server, client):
    job = live_server.start_job(client)
    job.log(1, "one", "zwei — 二", live=False)
    path, text = f"/v1/jobs/{job.id}/logs", {"accept": "text/plain"}
    first = client.get(path, headers=text)
    assert (first.status_code, first.text, "etag" in first.headers) == (200, "one\nzwei — 二\n", False)
    assert first.headers["content-type"] == "text/plain; charset=utf-8"
    job.log(3, "three", live=False)
    rest = client.get(path, headers={**text, "range": f"bytes={len(first.content)}-"})
    assert (rest.status_code, rest.text) == (206, "three\n")
    job.finish("failed")
    whole = client.get(path, headers=text)
    assert whole.text == first.text + rest.text
    again = client.get(path, headers={**text, "if-none-match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(path, headers={**text, "range": "bytes=9999-"}).status_code == 416
    assert client.get(path).json()["data"][0]["text"] == "one"
    with live_server.make_client("bob") as bob:
        assert bob.get(path, headers=text).status_code == 404


@pytest.mark.slow
def test_an_owner_has_only_so_many_streams_open_and_others_theirs(start_server, valkey_url):
    server = start_server(redis_url=valkey_url, max_streams_per_owner=2)
    with server.make_client() as ana, server.make_client("bob") as bob:
        job, other = server.start_job(ana), server.start_job(bob)
        with ExitStack() as stack:
            opened = [stack.enter_context(open_stream(ana, f"/v1/jobs/{job.id}/events")) for _ in range(2)]
            assert [next(frames).event for frames in opened] == ["job.queued"] * 2
            refused = ana.get(f"/v1/jobs/{job.id}/events", headers=SSE)
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_streams")
            assert refused.headers["retry-after"]
            with open_stream(bob, f"/v1/jobs/{other.id}/events") as frames:
                assert next(frames).event == "job.queued"
            job.finish()
            assert [list(frames)[-1].event for frames in opened] == ["end"] * 2
        with open_stream(ana, f"/v1/jobs/{job.id}/events") as frames:
            assert list(frames)[-1].event == "end"


@pytest.mark.slow
def test_a_stream_ends_after_its_lifetime_and_is_taken_up_again_without_a_hole(start_server, valkey_url):
    server = start_server(redis_url=valkey_url, stream_lifetime_seconds=0.4)
    with server.make_client() as client:
        job = server.start_job(client)
        seen, num_streams, headers = [], 0, {}
        while True:
            with open_stream(client, f"/v1/jobs/{job.id}/events", **headers) as frames:
                num_streams += 1
                if num_streams < 4:
                    job.emit("progress")
                else:
                    job.finish()
                found = list(frames)
            seen += [int(frame.id) for frame in found if frame.id]
            headers = {"last-event-id": str(seen[-1])}
            if found and found[-1].event == "end":
                break
        assert num_streams >= 4
    assert seen == list(range(1, len(seen) + 1))


def open_deaf_stream(server, job_id, key):
    """A client that asks for a stream and then reads nothing, with the smallest buffer that its kernel gives."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    client.sendall(
        f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nhost: x\r\naccept: text/event-stream\r\n"
        f"authorization: Bearer {key}\r\n\r\n".encode()
    )
    return client


def fill(job):
    """More events than any buffer on the way holds."""
    events = [NewEvent("metrics", message="x" * 4000) for _ in range(500)]
    for _ in range(5):
        job.server.jobs.record_events(job.id, job.attempt, events)


@pytest.mark.slow
def test_a_client_that_reads_nothing_is_cut_off_and_counted(start_server, valkey_url):
    server = start_server(redis_url=valkey_url, stall_seconds=2.0, metrics_public=True)
    _, key = server.keys.create("ana", "test", ("jobs",))
    with server.make_client() as client:
        job = server.start_job(client)
        fill(job)
        with open_deaf_stream(server, job.id, key):
            deadline = time.monotonic() + 20
            while "finesmith_stalled_clients_total 1.0" not in (text := client.get("/metrics").text):
                assert time.monotonic() < deadline, text
                Event().wait(0.1)
            while "finesmith_sse_clients 0.0" not in client.get("/metrics").text:
                assert time.monotonic() < deadline
                Event().wait(0.1)
        # One that reads, however slowly, gets everything.
        with open_stream(client, f"/v1/jobs/{job.id}/events") as frames:
            slow = []
            for frame in frames:
                slow.append(int(frame.id or 0))
                if len(slow) % 250 == 0:
                    # Well below what counts as stalled.
                    Event().wait(0.1)
                if len(slow) == 2502:
                    job.finish()
            assert slow == [*range(1, 2504), 0]


@pytest.mark.slow
def test_a_stop_with_many_streams_open_and_some_stuck_takes_less_than_10_seconds(start_server, valkey_url):
    server = start_server(redis_url=valkey_url)
    _, key = server.keys.create("ana", "test", ("jobs",))
    with server.make_client() as client, ExitStack() as stack:
        job, quiet = server.start_job(client), server.start_job(client)
        fill(job)
        for _ in range(5):
            stack.enter_context(open_deaf_stream(server, job.id, key))
        streams = [stack.enter_context(open_stream(client, f"/v1/jobs/{quiet.id}/events")) for _ in range(40)]
        for frames in streams:
            next(frames)
        started = time.monotonic()
        os.kill(server.process.pid, signal.SIGTERM)
        assert server.process.wait(20) == 0
        assert time.monotonic() - started < 10
