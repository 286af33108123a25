"""Clients that leave at random, a server and a Redis that are killed at random: nothing is missed or repeated."""

import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
import redis

from app.bus import Bus
from app.db.migrate import upgrade
from app.db.session import SessionFactory, build_engine
from app.ids import new_id
from app.jobs.catalogue import built_in_catalogue
from app.jobs.commands import NewEvent, Outcome
from app.jobs.service import JobService
from app.jobs.workers import WorkerInfo, WorkerService
from app.keys.service import KeyService
from app.server import bind_listener
from app.settings import Settings
from app.storage import Storage
from tests.integration.http.conftest import MINIMAL_JOB, iterate_frames
from tests.support.valkey import ValkeyProcess, run_valkey

SEEDS = [int(seed) for seed in os.environ.get("FINESMITH_STREAM_SEEDS", "1").split(",")]
LIMIT_SECONDS = 150.0
ALL = 100_000


class Server:
    """An API process that can be killed and come back under the same address."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._listener = bind_listener("127.0.0.1", 0)
        self._log = (folder / "api.log").open("ab")
        values = settings.model_dump(mode="json", exclude={"secret_key"}, exclude_unset=True)
        self._environment = {
            **os.environ,
            **{f"FINESMITH_{name.upper()}": str(value) for name, value in values.items()},
        }
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.start()

    def start(self) -> None:
        """The listener stays open, so clients wait in its backlog until the server is up."""
        fd = self._listener.fileno()
        argv = [sys.executable, "-m", "app.cli", "api", "--listen-fd", str(fd)]
        self.process = subprocess.Popen(argv, env=self._environment, pass_fds=[fd], stdout=self._log, stderr=self._log)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self._listener.close()
        self._log.close()


class PlayedWorker:
    """Emits events and log lines as a worker does: shown at once, stored in chunks, over several attempts."""

    def __init__(self, jobs: JobService, bus: Bus, storage: Storage, *, ids: tuple[str, str], rng: random.Random):
        self._jobs, self._bus, self._storage, self._rng = jobs, bus, storage, rng
        self._worker_id, self._job_id = ids
        self.attempt = 0

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self._run_attempt(stop, num_rounds=self._rng.randint(20, 60))
            self._jobs.finish(self._job_id, self.attempt, Outcome("succeeded" if stop.is_set() else "requeued"))

    def _run_attempt(self, stop: threading.Event, *, num_rounds: int) -> None:
        claim = self._jobs.claim(self._job_id, self._worker_id)
        assert claim is not None
        self.attempt = claim.attempt
        line, first, chunk = 1, 1, []
        for _ in range(num_rounds):
            count = self._rng.randint(1, 20)
            self._jobs.record_events(self._job_id, self.attempt, [NewEvent("metrics", data={"loss": 1.0})] * count)
            lines = [f"attempt {self.attempt} line {line + offset}" for offset in range(count)]
            self._bus.publish_log(self._job_id, self.attempt, line, lines)
            chunk, line = chunk + lines, line + count
            if len(chunk) > 30:
                self._store(first, chunk)
                first, chunk = line, []
            if stop.wait(self._rng.uniform(0.01, 0.1)):
                break
        if chunk:
            self._store(first, chunk)

    def _store(self, first: int, lines: list[str]) -> None:
        key = f"jobs/{self._job_id}/logs/{self.attempt}/{first}.log"
        written = self._storage.write(key, [("\n".join(lines) + "\n").encode()])
        self._jobs.record_log_chunk(
            self._job_id,
            self.attempt,
            first_line=first,
            num_lines=len(lines),
            num_bytes=written.num_bytes,
            storage_key=key,
        )


class Follower:
    """Reads one stream to its end, leaving it at random and coming back with the id that it saw last."""

    def __init__(self, url: str, key: str, path: str, *, rng: random.Random) -> None:
        self._url, self._key, self._path, self._rng = url, key, path, rng
        self.ids: list[str] = []
        self.gaps: list[dict] = []
        self.num_connections = 0

    def run(self) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < deadline:
            with suppress(httpx2.HTTPError):
                if self._follow_once():
                    return
        raise AssertionError(f"{self._path} did not end; {len(self.ids)} came")

    def _follow_once(self) -> bool:
        headers = {"accept": "text/event-stream", "authorization": f"Bearer {self._key}"}
        if self.ids:
            headers["last-event-id"] = self.ids[-1]
        self.num_connections += 1
        leave_after = self._rng.choice([self._rng.randint(1, 150), self._rng.randint(1, 150), ALL])
        # A client of its own, so that leaving tears the connection.
        with (
            httpx2.Client(base_url=self._url, timeout=20) as client,
            client.stream("GET", self._path, headers=headers) as answer,
        ):
            if answer.status_code != 200:
                return False
            for number, frame in enumerate(iterate_frames(answer)):
                if frame.event == "end":
                    return True
                if frame.event == "gap":
                    self.gaps.append(dict(frame.data))
                if frame.id is not None:
                    self.ids.append(frame.id)
                if number >= leave_after:
                    return False
        return False


def inject_faults(rng: random.Random, server: Server, valkey: ValkeyProcess) -> list[str]:
    """Faults of every kind; leaves everything running. Returns what was done."""
    done: list[str] = []
    pause = threading.Event()
    faults = ["server", "redis", "flush", "trim", "redis-away"] * 3
    rng.shuffle(faults)
    for fault in faults:
        done.append(fault)
        if fault == "server":
            server.kill()
            server.start()
            httpx2.get(f"{server.url}/livez", timeout=60)
        elif fault in ("redis", "redis-away"):
            valkey.kill()
            pause.wait(rng.uniform(0.5, 2.0) if fault == "redis-away" else 0)
            valkey.start()
        else:
            with redis.Redis.from_url(valkey.url) as client:
                if fault == "flush":
                    client.flushall()
                else:
                    for stream in client.scan_iter("finesmith:job:*"):
                        client.xtrim(stream, maxlen=1, approximate=False)
        pause.wait(rng.uniform(0.2, 1.0))
    return done


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_streams_have_no_hole_and_no_repetition_whatever_dies(tmp_path, seed):
    rng = random.Random(seed)
    with run_valkey() as valkey:
        settings = Settings(data_dir=tmp_path, redis_url=valkey.url, stream_lifetime_seconds=5.0)
        upgrade(settings.database_url)
        sessions = SessionFactory(build_engine(settings.database_url))
        storage, bus = Storage.of(settings), Bus(settings.redis_url)
        jobs = JobService(sessions, settings=settings, storage=storage, bus=bus)
        worker_id = new_id("wrk")
        WorkerService(sessions).register(
            WorkerInfo(worker_id, "test", gpus=(), slots=10, version="0", catalogue=built_in_catalogue())
        )
        _, key = KeyService(sessions, settings).create("ana", "test", ("jobs",))
        server = Server(settings, tmp_path)
        try:
            headers = {"authorization": f"Bearer {key}"}
            answer = httpx2.post(f"{server.url}/v1/jobs", json=MINIMAL_JOB, headers=headers, timeout=60)
            job_id = answer.json()["id"]
            ids, stop = (worker_id, job_id), threading.Event()
            worker = PlayedWorker(jobs, bus, storage, ids=ids, rng=random.Random(rng.random()))
            followers = [
                Follower(server.url, key, f"/v1/jobs/{job_id}/{what}", rng=random.Random(rng.random()))
                for what in ("events", "logs", "events", "logs")
            ]
            with ThreadPoolExecutor(len(followers) + 1) as pool:
                running = [pool.submit(follower.run) for follower in followers]
                running.append(pool.submit(worker.run, stop))
                try:
                    faults = inject_faults(rng, server, valkey)
                finally:
                    stop.set()
                for each in running:
                    each.result()
            events = jobs.list_events("ana", job_id, after_seq=0, limit=ALL).data
            lines = jobs.list_log_lines("ana", job_id, after=None, limit=ALL).data
        finally:
            server.close()
            bus.close()
            sessions.engine.dispose()
    print(
        f"seed {seed}: {len(faults)} faults, {len(events)} events, {len(lines)} lines, {worker.attempt} attempts, "
        f"{sum(follower.num_connections for follower in followers)} connections"
    )
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    for follower in followers[0::2]:
        assert follower.ids == [str(event.seq) for event in events]
    for follower in followers[1::2]:
        assert follower.ids == [f"{line.attempt}-{line.line}" for line in lines]
    assert [follower.gaps for follower in followers] == [[], [], [], []]
