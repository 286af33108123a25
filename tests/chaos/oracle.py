"""Judges jobs after faults: what the service says of them, in its rows, its storage and to those who followed.

The invariants: every job that got 201 is there and has ended; it completed at most once; what has ended stays ended;
attempts and event numbers only grow, without a hole; no stale write was taken; every file is what its row says; and a
training that was resumed ends where a straight one does.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select

from app.db.models import artifacts, attempts, events, job_secrets, jobs, log_chunks
from app.db.session import snapshot
from tests.chaos.client import FINAL
from tests.chaos.journal import Entry, read_journal
from tests.chaos.plant import Plant
from tests.chaos.stub_step import Orders, count_state

_DONE = ("succeeded", "skipped")
_ENDING_EVENTS = frozenset(f"job.{status}" for status in FINAL)


@dataclass(frozen=True)
class JobRecord:
    """All that the database holds of one job."""

    job: Row[Any]
    events: Sequence[Row[Any]]
    attempts: Sequence[Row[Any]]
    artifacts: Sequence[Row[Any]]
    chunks: Sequence[Row[Any]]
    has_secrets: bool

    @property
    def orders(self) -> Orders:
        """What its steps were to do."""
        return Orders.from_text(self.job.config["collator_separator"])


def read_job(plant: Plant, job_id: str) -> JobRecord | None:
    """None when the database does not know it."""
    with snapshot(plant.sessions) as connection:
        job = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
        if job is None:
            return None

        def read(table: Any, order: Any) -> Sequence[Row[Any]]:
            return connection.execute(select(table).where(table.c.job_id == job_id).order_by(order)).all()

        return JobRecord(
            job=job,
            events=read(events, events.c.seq),
            attempts=read(attempts, attempts.c.attempt),
            artifacts=read(artifacts, artifacts.c.path),
            chunks=connection.execute(
                select(log_chunks)
                .where(log_chunks.c.job_id == job_id)
                .order_by(log_chunks.c.attempt, log_chunks.c.first_line)
            ).all(),
            has_secrets=bool(read(job_secrets, job_secrets.c.field)),
        )


def judge_job(plant: Plant, job_id: str) -> list[str]:
    """Everything that is wrong with a job that should have ended; empty when all holds."""
    record = read_job(plant, job_id)
    if record is None:
        return [f"{job_id}: lost: there is no such row"]
    problems = [
        *judge_end(record),
        *judge_events(record),
        *judge_attempts(record),
        *judge_steps(record),
        *judge_logs(plant, record),
    ]
    if record.job.status == "succeeded":
        problems += judge_artifacts(plant, record)
    return [f"{job_id}: {problem}" for problem in problems]


def judge_end(record: JobRecord) -> list[str]:
    """I1, I2, I6: it has ended, once, and what ended came back by a retry only."""
    problems = []
    if record.job.status not in FINAL:
        problems.append(f"lost: it is still {record.job.status}")
    num_completions = sum(event.type == "job.succeeded" for event in record.events)
    if num_completions > 1 or sum(attempt.outcome == "succeeded" for attempt in record.attempts) > 1:
        problems.append(f"double completion: it succeeded {num_completions} times")
    for event, following in pairwise(record.events):
        if event.type in _ENDING_EVENTS and following.type != "job.queued":
            problems.append(f"{following.type} came after {event.type}")
    if record.events and record.job.status in FINAL and record.events[-1].type != f"job.{record.job.status}":
        problems.append(f"it is {record.job.status}, and its last event is {record.events[-1].type}")
    if record.job.lease_expires_at is not None or record.job.worker_id is not None or record.job.gpus:
        problems.append("left over: it has ended and holds a lease, a worker or GPUs")
    if record.job.status == "succeeded" and record.has_secrets:
        problems.append("left over: it has succeeded and its secrets are kept")
    return problems


def judge_events(record: JobRecord) -> list[str]:
    """I5, I7: numbers from 1 without a hole, and nothing of an older attempt after a newer one."""
    problems = []
    numbers = [event.seq for event in record.events]
    if numbers != list(range(1, record.job.last_seq + 1)):
        problems.append(f"hole: its events are {numbers[:3]}…{numbers[-3:]} where last_seq is {record.job.last_seq}")
    for event, following in pairwise(record.events):
        if following.attempt < event.attempt:
            problems.append(f"stale write: event {following.seq} of attempt {following.attempt} after {event.attempt}")
    return problems


def judge_attempts(record: JobRecord) -> list[str]:
    """I3, I4: attempts 1 … n, each ended before the next began."""
    problems = []
    numbers = [attempt.attempt for attempt in record.attempts]
    if numbers != list(range(1, record.job.attempt + 1)):
        problems.append(f"its attempts are {numbers} where the row says {record.job.attempt}")
    for attempt in record.attempts:
        if attempt.ended_at is None or attempt.outcome is None:
            problems.append(f"left over: attempt {attempt.attempt} has no end")
    for attempt, following in pairwise(record.attempts):
        if attempt.ended_at is not None and following.started_at < attempt.ended_at:
            problems.append(f"attempt {following.attempt} began before attempt {attempt.attempt} ended")
    if record.job.failures > record.job.max_attempts:
        problems.append(f"{record.job.failures} failures of {record.job.max_attempts}")
    return problems


def judge_steps(record: JobRecord) -> list[str]:
    """Every step of a job that succeeded counts as done once; no attempt finished a step twice."""
    problems = []
    finished = Counter((event.attempt, event.step) for event in record.events if event.type == "step.finished")
    problems += [f"step {step} finished {count} times" for (_, step), count in finished.items() if count > 1]
    if record.job.status == "succeeded":
        undone = [step["name"] for step in record.job.steps if step["status"] not in _DONE]
        problems += [f"it succeeded without its step {name}" for name in undone]
    return problems


def judge_logs(plant: Plant, record: JobRecord) -> list[str]:
    """Log lines are numbered without a hole in each attempt, and every chunk is in storage."""
    problems = []
    expected: dict[int, int] = {}
    for chunk in record.chunks:
        if chunk.first_line != expected.get(chunk.attempt, 1):
            problems.append(f"hole: log line {chunk.first_line} of attempt {chunk.attempt}")
        expected[chunk.attempt] = chunk.first_line + chunk.num_lines
        if not plant.storage.exists(chunk.storage_key):
            problems.append(f"{chunk.storage_key} is not in storage")
    return problems


def judge_artifacts(plant: Plant, record: JobRecord) -> list[str]:
    """Every file is what its row says; all of them come from one training, which ended where it should."""
    problems = []
    contents: dict[str, bytes] = {}
    for row in record.artifacts:
        with plant.storage.open(row.storage_key) as file:
            content = contents[row.path] = file.read()
        if (len(content), hashlib.sha256(content).hexdigest()) != (row.num_bytes, row.sha256):
            problems.append(f"stale write: {row.path} in storage is not what its row says")
    if problems:
        return problems
    adapter = json.loads(contents.get("adapter/adapter_model.safetensors", b"{}"))
    if adapter.get("state") != count_state(record.orders.num_steps):
        problems.append("its training did not end where a straight one does")
    if "fused/model.safetensors" in contents:
        fused = json.loads(contents["fused/model.safetensors"])
        if fused["nonce"] != adapter.get("nonce"):
            problems.append("its fused model is of another training than its adapter")
    return problems


@dataclass(frozen=True, slots=True)
class Resumption:
    """How a later attempt's training went on."""

    job_id: str
    attempt: int
    resumed_from: int
    told_before: int
    """Last training step that the service knew of when the attempt began."""
    saved_before: int
    """Newest checkpoint that it knew of."""
    save_every: int

    @property
    def num_lost(self) -> int:
        """Training steps that had been told and had to be done again."""
        return max(0, self.told_before - self.resumed_from)


def list_resumptions(record: JobRecord, journal: Iterable[Entry]) -> list[Resumption]:
    """One for each training of an attempt behind the first."""
    resumed = {entry.attempt: entry.number for entry in journal if entry.act == "resumed"}
    found = []
    for attempt, number in sorted(resumed.items()):
        if attempt == 1:
            continue
        earlier = [event for event in record.events if event.attempt < attempt and event.step == "train"]
        told = [event.data["global_step"] for event in earlier if event.type == "metrics"]
        saved = [event.data["global_step"] for event in earlier if event.type == "checkpoint.saved"]
        found.append(
            Resumption(
                record.job.id,
                attempt,
                resumed_from=number,
                told_before=max(told, default=0),
                saved_before=max(saved, default=0),
                save_every=record.orders.save_every,
            )
        )
    return found


def read_journal_by_job(path: Path) -> dict[str, list[Entry]]:
    """The steps' own record, by job."""
    by_job: dict[str, list[Entry]] = {}
    for entry in read_journal(path):
        by_job.setdefault(entry.job_id, []).append(entry)
    return by_job


def find_orphans(expected: Iterable[int], *, below: int | None = None) -> list[str]:
    """Processes below `below` (this process, which must be a subreaper) that belong to no job any more.

    `expected`: what may run, with its own helpers; a trainer's process is never expected.
    """
    from trainer_core.watchdog import find_descendants

    known = set(expected)
    orphans = []
    for pid in find_descendants(below):
        command = read_command(pid)
        is_trainer = "stub_pipeline" in command or "stub_step" in command or "stub_agent" in command
        if command and (is_trainer or "sleep 600" in command or pid not in known):
            orphans.append(f"{pid}: {command[:120]}")
    return orphans


def read_command(pid: int) -> str:
    """The process's command line; empty for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def list_leftover_workspaces(plant: Plant) -> list[str]:
    """Folders of jobs that have ended, on any host."""
    return [
        str(Path(entry.path).relative_to(plant.folder))
        for worker_id in plant.worker_ids
        if (root := plant.host_folder(worker_id) / "workspaces").is_dir()
        for entry in os.scandir(root)
    ]
