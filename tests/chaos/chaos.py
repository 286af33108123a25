"""Random faults on an installation that works: the run, and what it shows."""

import random
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.chaos.client import FINAL, Follower, Unanswered
from tests.chaos.faults import Fault, Injector
from tests.chaos.oracle import (
    JobRecord,
    Resumption,
    find_orphans,
    judge_job,
    list_leftover_workspaces,
    list_resumptions,
    read_job,
    read_journal_by_job,
)
from tests.chaos.plant import Database, Part, Plant, PlantOptions, wait_until
from tests.chaos.processes import reap_adopted
from tests.chaos.stub_step import Orders
from trainer_core.watchdog import become_subreaper, find_descendants

QUIET_SECONDS = 5.0
_TICK_SECONDS = 0.1
_LONGEST_OUTAGE_SECONDS = 2.0
_RETRYABLE_CODES = frozenset({"lease_lost", "killed_by_signal", "host_error", "storage_unavailable", "rank_lost"})


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    """How much of it, and from which seed: the same seed chooses the same faults, though not at the same moment."""

    num_faults: int
    seed: int
    database: Database = "sqlite"
    faults_per_second: float = 1.2
    num_open_jobs: int = 8
    num_servers: int = 2
    num_workers: int = 3
    settle_seconds: float = 240.0
    """How long jobs may take to end once there are no more faults."""


@dataclass
class ChaosResult:
    """What happened and what it did."""

    plan: ChaosPlan
    faults: list[Fault]
    seconds: float
    job_ids: list[str]
    by_status: dict[str, int]
    problems: list[str]
    orphans: list[str]
    leftover_workspaces: list[str]
    stream_faults: list[str]
    num_reconnects: int
    requeue_seconds: list[float]
    resumptions: list[Resumption]
    attempts_per_job: list[int]
    outcomes: dict[str, int]
    unexpected_failures: list[str] = field(default_factory=list)
    starts: dict[str, int] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """True when every invariant held."""
        return not (self.problems or self.orphans or self.stream_faults or self.unexpected_failures)

    def count(self, word: str) -> int:
        """Problems of one kind, by the word that they begin with."""
        return sum(f": {word}" in problem for problem in self.problems)

    def summarize(self) -> dict[str, Any]:
        """The figures, ready for JSON."""
        lost_steps = [each.num_lost for each in self.resumptions]
        return {
            "plan": asdict(self.plan),
            "seconds": round(self.seconds, 1),
            "faults": len(self.faults),
            "faults_by_kind": dict(sorted(Counter(fault.kind for fault in self.faults).items())),
            "jobs": len(self.job_ids),
            "jobs_by_status": self.by_status,
            "attempts": {"in_all": sum(self.attempts_per_job), "most_of_a_job": max(self.attempts_per_job, default=0)},
            "attempt_outcomes": self.outcomes,
            "lost": self.count("lost"),
            "double_completions": self.count("double completion"),
            "stale_writes": self.count("stale write"),
            "holes": self.count("hole") + len(self.stream_faults),
            "left_over": self.count("left over"),
            "other_problems": [text for text in self.problems if not _is_counted(text)],
            "orphans_after_5_seconds": self.orphans,
            "unexpected_failures": self.unexpected_failures,
            "leftover_workspaces": len(self.leftover_workspaces),
            "stream_connections": self.num_reconnects,
            "requeue_seconds": describe_distribution(self.requeue_seconds),
            "resumptions": len(self.resumptions),
            "steps_lost_by_a_crash": describe_distribution([float(number) for number in lost_steps]),
            "resumptions_that_lost_more_than_an_interval": sum(
                each.num_lost > each.save_every for each in self.resumptions
            ),
            "starts": self.starts,
            "is_clean": self.is_clean,
        }


class Chaos:
    """One run: an installation, a load of jobs, faults, quiet, judgement."""

    def __init__(self, plan: ChaosPlan) -> None:
        become_subreaper()
        self._plan = plan
        self._rng = random.Random(plan.seed)
        self._plant = Plant(
            PlantOptions(
                database=plan.database,
                num_servers=plan.num_servers,
                num_workers=plan.num_workers,
            )
        )
        self._statuses: dict[str, str] = {}
        self._followers: list[Follower] = []
        self._faults: list[Fault] = []
        self._restart_at: dict[str, float] = {}
        self._calm = threading.Event()
        self._done = threading.Event()
        self._errors: list[BaseException] = []
        self._injector = Injector(
            self._plant, rng=random.Random(self._rng.random()), open_jobs=lambda: self._list_jobs(is_open=True)
        )

    def run(self) -> ChaosResult:
        """Runs it all; leaves nothing behind. Raises what its own threads raised."""
        started = time.monotonic()
        try:
            self._plant.start()
            threads = [threading.Thread(target=self._guard, args=(work,)) for work in (self._tend, self._load)]
            for thread in threads:
                thread.start()
            try:
                self._inject_all()
                self._calm.set()
                self._injector.freezer.thaw_due(all_of_them=True)
                self._settle()
                orphans = self._find_orphans()
            finally:
                self._calm.set()
                self._done.set()
                for thread in threads:
                    thread.join()
            return self._judge(orphans, seconds=time.monotonic() - started)
        finally:
            self._injector.freezer.thaw_due(all_of_them=True)
            self._plant.close()

    def _guard(self, work: Any) -> None:
        try:
            work()
        except BaseException as error:
            self._errors.append(error)
            self._done.set()
            raise

    def _list_jobs(self, *, is_open: bool) -> list[str]:
        return [job_id for job_id, status in self._statuses.copy().items() if (status not in FINAL) is is_open]

    def _inject_all(self) -> None:
        while len(self._faults) < self._plan.num_faults and not self._done.is_set():
            self._injector.ended_jobs = self._list_jobs(is_open=False)
            fault = self._injector.inject()
            if fault is not None:
                self._faults.append(fault)
            self._done.wait(self._rng.expovariate(self._plan.faults_per_second))

    def _tend(self) -> None:
        """Starts again what died, after an outage of its own length, and thaws what was frozen."""
        while not self._done.is_set():
            self._injector.freezer.thaw_due()
            for part in self._plant.parts:
                if not part.is_running and self._is_restart_due(part.name):
                    part.start()
            postgres = self._plant.postgres
            if postgres is not None and not postgres.is_running and self._is_restart_due("postgres"):
                postgres.start()
            reap_adopted(self._plant)
            self._done.wait(_TICK_SECONDS)

    def _is_restart_due(self, name: str) -> bool:
        longest = 0.0 if self._calm.is_set() else _LONGEST_OUTAGE_SECONDS
        due_at = self._restart_at.setdefault(name, time.monotonic() + self._rng.uniform(0, longest))
        if time.monotonic() < due_at and not self._calm.is_set():
            return False
        del self._restart_at[name]
        return True

    def _load(self) -> None:
        """Keeps so many jobs open, and knows what becomes of each."""
        rng = random.Random(self._plan.seed + 1)
        while not self._done.is_set():
            for job_id in self._list_jobs(is_open=True):
                self._look_at(job_id)
            if not self._calm.is_set() and len(self._list_jobs(is_open=True)) < self._plan.num_open_jobs:
                self._submit(rng)
            self._done.wait(_TICK_SECONDS)

    def _look_at(self, job_id: str) -> None:
        try:
            answer = self._plant.client.call("GET", f"/v1/jobs/{job_id}", timeout_seconds=3.0)
        except Unanswered:
            return
        if answer.status == 200:
            self._statuses[job_id] = answer.body["status"]
        elif answer.status == 404:
            raise AssertionError(f"{job_id} got 201 and is not known")

    def _submit(self, rng: random.Random) -> None:
        num_gpus = 2 if rng.random() < 0.3 else 1
        orders = Orders(
            str(self._plant.journal),
            num_steps=rng.randint(10, 50),
            save_every=rng.choice((3, 5, 10)),
            step_seconds=rng.uniform(0.03, 0.1),
            has_grandchild=rng.random() < 0.5,
        )
        config = {"model_name_or_path": "owner/name", "dataset_key": "soda", "apply_lora": True}
        body = {
            "config": {**config, "collator_separator": orders.to_text(), "huggingface_hub_token": "hf_" + "s" * 34},
            "steps": ["prepare", "train", "fuse"],
            "resources": {"gpus": num_gpus},
            "max_attempts": 100,
        }
        key = f"chaos-{rng.getrandbits(64):x}"
        answer = self._plant.client.insist(
            "POST", "/v1/jobs", body=body, idempotency_key=key, timeout_seconds=5.0, seconds=120
        )
        assert answer.status == 201, answer.body
        job_id = answer.body["id"]
        self._statuses[job_id] = answer.body["status"]
        follower = Follower(self._plant.client, job_id, is_over=self._done.is_set)
        self._followers.append(follower)
        follower.start()

    def _settle(self) -> None:
        """Every job must end now that nothing happens any more."""
        deadline = time.monotonic() + self._plan.settle_seconds
        while self._list_jobs(is_open=True) and time.monotonic() < deadline and not self._done.is_set():
            for job_id, status in self._statuses.copy().items():
                if status == "paused":
                    self._plant.client.insist("POST", f"/v1/jobs/{job_id}/resume")
            time.sleep(_TICK_SECONDS)

    def _find_orphans(self) -> list[str]:
        if self._done.is_set():
            return []
        wait_until(lambda: all(part.is_running for part in self._plant.parts))
        time.sleep(QUIET_SECONDS)
        own = self._list_own_pids()
        return find_orphans(own)

    def _list_own_pids(self) -> list[int]:
        pids = [self._plant.guard.pid, *(part.pid for part in self._plant.parts)]
        if self._plant.postgres is not None:
            pids.append(self._plant.postgres.pid)
        return [*pids, *(below for pid in pids for below in find_descendants(pid))]

    def _judge(self, orphans: list[str], *, seconds: float) -> ChaosResult:
        if self._errors:
            raise self._errors[0]
        for follower in self._followers:
            follower.join(timeout=30)
        records = {job_id: read_job(self._plant, job_id) for job_id in self._statuses}
        known = {job_id: record for job_id, record in records.items() if record is not None}
        journal = read_journal_by_job(self._plant.journal)
        return ChaosResult(
            plan=self._plan,
            faults=self._faults,
            seconds=seconds,
            job_ids=list(self._statuses),
            by_status=dict(Counter(record.job.status for record in known.values())),
            problems=[problem for job_id in self._statuses for problem in judge_job(self._plant, job_id)],
            orphans=orphans,
            leftover_workspaces=list_leftover_workspaces(self._plant),
            stream_faults=self._judge_streams(known),
            num_reconnects=sum(follower.num_connections for follower in self._followers),
            requeue_seconds=measure_requeues(self._faults, known),
            resumptions=[
                found for job_id, r in known.items() for found in list_resumptions(r, journal.get(job_id, []))
            ],
            attempts_per_job=[record.job.attempt for record in known.values()],
            outcomes=dict(Counter(a.outcome or "none" for record in known.values() for a in record.attempts)),
            unexpected_failures=[text for record in known.values() for text in find_unexpected_failures(record)],
            starts={_name_kind(part): _count_starts(self._plant, part) for part in self._plant.parts},
        )

    def _judge_streams(self, records: dict[str, JobRecord]) -> list[str]:
        faults = [fault for follower in self._followers for fault in follower.faults]
        retried = {fault.target for fault in self._faults if fault.kind == "retried"}
        for follower in self._followers:
            record = records.get(follower.job_id)
            if record is None or follower.job_id in retried:
                continue
            if follower.has_ended and follower.last_seq != record.job.last_seq:
                faults.append(f"{follower.job_id}: its stream ended at {follower.last_seq} of {record.job.last_seq}")
        return faults


def measure_requeues(faults: list[Fault], records: dict[str, JobRecord]) -> list[float]:
    """Seconds from a supervisor's death to the event that takes its job back."""
    found = []
    for fault in faults:
        for job_id in fault.job_ids:
            record = records.get(job_id)
            after = [] if record is None else [event for event in record.events if event.created_at >= fault.at]
            taken_back = next((event for event in after if event.type.startswith("job.")), None)
            if taken_back is not None and taken_back.type in ("job.requeued", "job.failed"):
                found.append(taken_back.created_at - fault.at)
    return found


def find_unexpected_failures(record: JobRecord) -> list[str]:
    """Faults are no reason to fail with a code that blames the job, its files or the service's own code."""
    error = record.job.error if record.job.status == "failed" else None
    codes = [error] if error else []
    codes += [attempt.error for attempt in record.attempts if attempt.error]
    return [f"{record.job.id}: {each['code']}: {each['message']}" for each in codes if _is_unexpected(each["code"])]


def describe_distribution(values: list[float]) -> dict[str, float | int]:
    """Number and percentiles."""
    if not values:
        return {"n": 0}
    ordered = sorted(values)

    def find(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    return {"n": len(ordered), "p50": find(0.5), "p95": find(0.95), "p99": find(0.99), "max": round(ordered[-1], 3)}


def _is_unexpected(code: str) -> bool:
    return code not in _RETRYABLE_CODES


def _is_counted(text: str) -> bool:
    words = ("lost", "double completion", "stale write", "hole", "left over")
    return any(f": {word}" in text for word in words)


def _name_kind(part: Part) -> str:
    return part.name.partition("-")[0]


def _count_starts(plant: Plant, part: Part) -> int:
    return sum(each.num_starts for each in plant.parts if _name_kind(each) == _name_kind(part))
