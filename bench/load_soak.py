"""A thousand jobs that only prepare: do server and worker leave memory, files, processes and disk where they were?"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load_service import JOB, Measured, count_open_files, read_rss_bytes
from bench.service import ROOT, Service, run_service

STUB_WORKER = ROOT / "tests" / "integration" / "worker" / "stub_worker.py"
MEBIBYTE = 1 << 20
BATCH = 50
WARM_UP_JOBS = 100
"""Before the first look: pools, caches and allocators have their size then."""
FINAL = {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True)
class Looked:
    """What was in use at one moment, of one process tree."""

    rss_bytes: int
    num_files: int
    num_processes: int


def measure_soak(*, num_jobs: int, slots: int = 2) -> list[Measured]:
    """The real server, Valkey and Celery worker; the steps are stubs, each a process of its own as real ones are."""
    with run_service("api") as service, run_stub_worker(service, slots=slots) as worker_pid:
        run_jobs(service, WARM_UP_JOBS)
        server_before, worker_before, disk_before = look(service.pid), look(worker_pid), weigh(service.folder)
        started = time.monotonic()
        statuses = run_jobs(service, num_jobs)
        elapsed = time.monotonic() - started
        deadline = time.monotonic() + 30
        # A job is over a moment before its workspace is gone.
        while time.monotonic() < deadline and (
            count_processes(worker_pid) > worker_before.num_processes or weigh(service.folder).leftovers
        ):
            time.sleep(0.1)
        server_after, worker_after, disk_after = look(service.pid), look(worker_pid), weigh(service.folder)
    name = f"soak of {num_jobs} jobs: "
    found = [
        Measured(name + "succeeded", statuses.count("succeeded"), "jobs", least=num_jobs),
        Measured(name + "rate", num_jobs / elapsed, "jobs/s"),
        Measured(name + "workspaces and parts left", count_leftovers(disk_after), "files", most=0),
        Measured(name + "storage a job", (disk_after.storage - disk_before.storage) / num_jobs, "bytes"),
        Measured(name + "other bytes", (disk_after.other - disk_before.other) / MEBIBYTE, "MiB", most=8),
    ]
    for who, before, after in (("server", server_before, server_after), ("worker", worker_before, worker_after)):
        growth = (after.rss_bytes - before.rss_bytes) / MEBIBYTE
        found += [
            Measured(f"{name}{who}: memory", growth, "MiB", most=20),
            Measured(f"{name}{who}: open files", after.num_files - before.num_files, "files", most=4),
            Measured(f"{name}{who}: processes", after.num_processes - before.num_processes, "processes", most=0),
        ]
    return found


@contextmanager
def run_stub_worker(service: Service, *, slots: int) -> Iterator[int]:
    """The worker that a user starts, with stubs in place of the steps; yields its process id."""
    settings = {
        "PYTHONPATH": str(ROOT),
        "FINESMITH_PARENT_PIPE": "1",
        "FINESMITH_DATA_DIR": str(service.folder),
        "FINESMITH_WORKER_SLOTS": str(slots),
    }
    argv = [sys.executable, str(STUB_WORKER)]
    with (service.folder / "stub-worker.log").open("wb") as log:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **settings}, start_new_session=True
        )
    try:
        while not any(worker["status"] == "online" for worker in service.call("GET", "/v1/workers")["data"]):
            assert process.poll() is None, (service.folder / "stub-worker.log").read_text()
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdin is not None
        process.stdin.close()


def run_jobs(service: Service, num_jobs: int) -> list[str]:
    """Submits jobs, a batch at a time, and waits for their ends; returns the states that they ended in."""
    statuses: list[str] = []
    for start in range(0, num_jobs, BATCH):
        body = {**JOB, "steps": ["prepare"]}
        ids = [service.call("POST", "/v1/jobs", body=body)["id"] for _ in range(min(BATCH, num_jobs - start))]
        for job_id in ids:
            while (job := service.call("GET", f"/v1/jobs/{job_id}?wait=30"))["status"] not in FINAL:
                pass
            statuses.append(job["status"])
    return statuses


def look(pid: int) -> Looked:
    """At a process and everything below it."""
    pids = [pid, *find_descendants(pid)]
    return Looked(sum(map(read_rss_bytes, pids)), sum(map(count_open_files, pids)), len(pids))


def count_processes(pid: int) -> int:
    """The process and everything below it."""
    return 1 + len(find_descendants(pid))


def find_descendants(pid: int) -> list[int]:
    """Process ids below a process."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(found for child in children for found in find_descendants(child))]


@dataclass(frozen=True)
class Weighed:
    """Bytes below the data folder, without the database, and what is there that only running jobs have."""

    storage: int
    other: int
    leftovers: tuple[str, ...]


def weigh(folder: Path) -> Weighed:
    """Reads the sizes of all files of the data folder."""
    storage, other, leftovers = 0, 0, []
    for path in folder.rglob("*"):
        if not path.is_file() or path.name.startswith("finesmith.db"):
            continue
        relative = path.relative_to(folder)
        if relative.parts[0] == "storage":
            storage += path.stat().st_size
        elif not relative.name.endswith(".log"):
            other += path.stat().st_size
        if relative.parts[0] == "workspaces" or path.name.startswith(".part-"):
            leftovers.append(str(relative))
    return Weighed(storage, other, tuple(leftovers))


def count_leftovers(weighed: Weighed) -> int:
    """Files that only a running job has."""
    return len(weighed.leftovers)
