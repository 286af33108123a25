"""What the load measurements share: a service on either database, the core beside it, and figures with goals."""

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Literal

from app.bus import Bus
from app.db.session import SessionFactory, build_engine
from app.ids import new_id
from app.jobs.catalogue import built_in_catalogue
from app.jobs.service import JobService
from app.jobs.workers import WorkerInfo, WorkerService
from app.keys.service import KeyService
from app.settings import Settings
from app.storage import Storage
from bench.service import Service, run_service

Database = Literal["sqlite", "postgres"]
JOB = {"config": {"model_name_or_path": "owner/name", "apply_lora": True, "dataset_key": "soda"}}


@dataclass(frozen=True)
class Measured:
    """One figure; `most` or `least` is the goal that it is held against."""

    name: str
    value: float
    unit: str
    most: float | None = None
    least: float | None = None
    num_samples: int = 1

    @property
    def is_met(self) -> bool:
        """Also True of a figure without a goal."""
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)


@dataclass(frozen=True)
class Loaded:
    """A running server, and the core on its database as a worker would use it."""

    service: Service
    settings: Settings
    sessions: SessionFactory
    jobs: JobService
    owner: str
    worker_id: str

    def claim_new_job(self) -> tuple[str, int]:
        """Submits a job over HTTP and takes it up; returns its id and attempt."""
        job_id = self.service.call("POST", "/v1/jobs", body=JOB)["id"]
        claim = self.jobs.claim(job_id, self.worker_id)
        assert claim is not None
        return job_id, claim.attempt


@contextmanager
def run_loaded(database: Database, *, with_worker: bool = True) -> Iterator[Loaded]:
    """Server and Valkey, on SQLite or on a PostgreSQL of its own; all of it is removed at the end.

    The worker is an entry in the database: who measures plays it. It has room for more jobs than any real one, and
    placing a job looks at all that a worker has.
    """
    with ExitStack() as stack:
        # One owner plays all clients.
        given = {"max_streams_per_owner": "10000"}
        if database == "postgres":
            from tests.support.postgres import run_postgres

            given["database_url"] = stack.enter_context(run_postgres()).create_database()
        service = stack.enter_context(run_service("api", **given))
        settings = Settings.model_validate({"data_dir": service.folder, **given})
        sessions = SessionFactory(build_engine(settings.database_url, pool_size=4))
        stack.callback(sessions.engine.dispose)
        bus = Bus(settings.redis_url)
        stack.callback(bus.close)
        jobs = JobService(sessions, settings=settings, storage=Storage(settings.storage_url), bus=bus)
        worker_id = new_id("wrk")
        info = WorkerInfo(worker_id, "bench", gpus=(), slots=10_000, version="0", catalogue=built_in_catalogue())
        if with_worker:
            WorkerService(sessions).register(info)
        principal = KeyService(sessions, settings).authenticate(service.key)
        assert principal is not None
        yield Loaded(service, settings, sessions, jobs, principal.owner, worker_id)


async def probe(port: int, *, until: asyncio.Event, pause_seconds: float = 0.01) -> list[float]:
    """Asks `/livez` again and again on one connection; returns how long each answer took, in seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    seconds: list[float] = []
    try:
        while not until.is_set():
            started = time.perf_counter()
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            seconds.append(time.perf_counter() - started)
            await asyncio.sleep(pause_seconds)
    finally:
        writer.close()
    return seconds


def percentile(seconds: list[float], number: int) -> float:
    """Of latencies; linear between neighbours."""
    return quantiles(seconds, n=100, method="inclusive")[number - 1]


def read_rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def count_open_files(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))
