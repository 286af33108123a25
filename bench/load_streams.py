"""Many clients at one server process: streams that are open at once, and long polls."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress

from app.jobs.commands import NewEvent
from bench.load_service import Loaded, Measured, percentile, probe, read_rss_bytes

MEBIBYTE = 1 << 20
OPEN_AT_ONCE = 50
SETTLE_SECONDS = 2.0


def measure_streams(loaded: Loaded, *, num_clients: int, num_jobs: int, seconds: float) -> list[Measured]:
    """So many clients follow the events of so many running jobs, each of which tells one event a second."""
    running = [loaded.claim_new_job() for _ in range(num_jobs)]
    return asyncio.run(_measure_streams(loaded, running, num_clients=num_clients, seconds=seconds))


async def _measure_streams(
    loaded: Loaded, running: Sequence[tuple[str, int]], *, num_clients: int, seconds: float
) -> list[Measured]:
    pid, port = loaded.service.pid, loaded.service.port
    # The first stream imports and connects what all of them share.
    await _close(await _open(loaded, running[0][0]))
    before = read_rss_bytes(pid)
    streams = []
    for start in range(0, num_clients, OPEN_AT_ONCE):
        numbers = range(start, min(start + OPEN_AT_ONCE, num_clients))
        streams += await asyncio.gather(*(_open(loaded, running[i % len(running)][0]) for i in numbers))
    await asyncio.sleep(SETTLE_SECONDS)
    delays: list[float] = []
    followers = [asyncio.create_task(_follow(reader, delays)) for reader, _ in streams]
    done = asyncio.Event()
    prober = asyncio.create_task(probe(port, until=done))
    num_events = await asyncio.to_thread(_tell, loaded, running, seconds=seconds)
    await asyncio.sleep(SETTLE_SECONDS)
    after = read_rss_bytes(pid)
    done.set()
    waits = await prober
    for follower in followers:
        follower.cancel()
    await asyncio.gather(*followers, return_exceptions=True)
    await asyncio.gather(*(_close(stream) for stream in streams))
    expected = num_events * num_clients // len(running)
    name = f"{num_clients} streams: "
    return [
        Measured(name + "memory of the server", (after - before) / MEBIBYTE, "MiB", most=150),
        Measured(name + "event to client, p50", percentile(delays, 50), "s", num_samples=len(delays)),
        Measured(name + "event to client, p99", percentile(delays, 99), "s", most=1.0, num_samples=len(delays)),
        Measured(name + "events that came", len(delays) / expected, "of those told", least=1.0, num_samples=expected),
        Measured(name + "/livez meanwhile, p99", percentile(waits, 99), "s", num_samples=len(waits)),
        Measured(name + "/livez meanwhile, longest", max(waits), "s", most=0.25, num_samples=len(waits)),
    ]


def _tell(loaded: Loaded, running: Sequence[tuple[str, int]], *, seconds: float) -> int:
    """One event a second and job, spread over the second; returns how many. Blocks for `seconds`."""
    started, num_events = time.monotonic(), 0
    while (elapsed := time.monotonic() - started) < seconds:
        due = int(elapsed * len(running)) + 1
        while num_events < due:
            job_id, attempt = running[num_events % len(running)]
            event = NewEvent("metrics", step="train", data={"sent_at": time.time(), "loss": 1.5, "global_step": 1})
            loaded.jobs.record_events(job_id, attempt, [event])
            num_events += 1
        time.sleep(0.005)
    rest = -num_events % len(running)
    for job_id, attempt in running[len(running) - rest :]:
        loaded.jobs.record_events(job_id, attempt, [NewEvent("metrics", data={"sent_at": time.time()})])
    return num_events + rest


async def _open(loaded: Loaded, job_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream whose stored events have been read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", loaded.service.port)
    writer.write(
        f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {loaded.service.key}\r\n"
        "Accept: text/event-stream\r\n\r\n".encode()
    )
    answer = b""
    while b"event: job.running" not in answer:
        line = await reader.readline()
        if not line:
            raise ConnectionError(f"the stream of {job_id} ended before its events: {answer.decode()[:500]}")
        answer += line
    return reader, writer


async def _follow(reader: asyncio.StreamReader, delays: list[float]) -> None:
    while line := await reader.readline():
        if line.startswith(b"data: ") and b'"sent_at"' in line:
            delays.append(time.time() - json.loads(line[6:])["data"]["sent_at"])


async def _close(stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    stream[1].close()
    with suppress(ConnectionError):
        await stream[1].wait_closed()


def measure_waiting(loaded: Loaded, *, num_clients: int, seconds: float) -> list[Measured]:
    """So many clients wait for the end of one job; is the server still there for others?"""
    job_id, _ = loaded.claim_new_job()
    return asyncio.run(_measure_waiting(loaded, job_id, num_clients=num_clients, seconds=seconds))


async def _measure_waiting(loaded: Loaded, job_id: str, *, num_clients: int, seconds: float) -> list[Measured]:
    request = (
        f"GET /v1/jobs/{job_id}?wait={seconds + 20} HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {loaded.service.key}\r\n\r\n"
    ).encode()
    connections = [await asyncio.open_connection("127.0.0.1", loaded.service.port) for _ in range(num_clients)]
    for _, writer in connections:
        writer.write(request)
    await asyncio.sleep(SETTLE_SECONDS)
    done = asyncio.Event()
    prober = asyncio.create_task(probe(loaded.service.port, until=done))
    await asyncio.sleep(seconds)
    done.set()
    waits = await prober
    for connection in connections:
        await _close(connection)
    name = f"{num_clients} long polls: /livez, "
    return [
        Measured(name + "p50", percentile(waits, 50), "s", num_samples=len(waits)),
        Measured(name + "p99", percentile(waits, 99), "s", most=0.05, num_samples=len(waits)),
        Measured(name + "longest", max(waits), "s", num_samples=len(waits)),
    ]
