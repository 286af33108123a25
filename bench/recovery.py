"""Measures how soon jobs go on after a death, end after a cancel, and leave a worker that is deployed; loopback only.

    python -m bench.recovery [--only requeue cancel deploy] [--workers 8] [--rounds 6]

With the lease and heartbeat of production (60 s, 15 s). Prints a table and writes `bench/results/recovery-<date>.json`.
Exit status 1: a figure is over its goal, or a job was not as it should be.
"""

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from bench.results_file import FOLDER, write_result
from tests.chaos.chaos import describe_distribution
from tests.chaos.oracle import judge_job, list_resumptions, read_job, read_journal_by_job
from tests.chaos.plant import Database, Part, Plant, PlantOptions, run_plant, wait_until
from tests.chaos.processes import kill_all, take_census
from tests.chaos.work import read_acts, submit, wait_ended, wait_training

SLOTS = 2
LONG = {"num_steps": 100_000, "step_seconds": 0.25, "save_every": 8}
"""A training that outlasts the measurement."""
SETUP = "one server, workers of two slots on hosts that share no disk, lease 60 s, heartbeat 15 s, grace 30 s"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing, in seconds unless its name says otherwise."""

    name: str
    goal: str
    is_met: bool
    distribution: dict[str, float | int]


def main() -> int:
    """Measures and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(MEASUREMENTS), nargs="+", default=list(MEASUREMENTS))
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6, help="of kills, of cancels and of deploys")
    parser.add_argument("--lease", type=float, default=60.0)
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="postgres")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    figures: list[Figure] = []
    problems: list[str] = []
    for name in options.only:
        with run_plant(build_options(options.database, num_workers=options.workers, lease=options.lease)) as plant:
            measurement = Measurement(plant, rounds=options.rounds, rng=random.Random(options.seed))
            figures += MEASUREMENTS[name](measurement)
            problems += measurement.end_all()
    for figure in figures:
        print(f"{figure.name:<44}{figure.distribution!s:<90}{figure.goal:<28}{'met' if figure.is_met else 'MISSED'}")
    for problem in problems:
        print(problem)
    name = "recovery" if set(options.only) == set(MEASUREMENTS) else "-".join(["recovery", *options.only])
    content = {"seed": options.seed, "figures": [asdict(figure) for figure in figures], "problems": problems}
    print(f"written: {write_result(name, content, setup=SETUP, folder=options.out)}")
    return 0 if not problems and all(figure.is_met for figure in figures) else 1


def build_options(database: Database, *, num_workers: int, lease: float) -> PlantOptions:
    """An installation with production's clocks."""
    return PlantOptions(
        database=database,
        num_workers=num_workers,
        lease_seconds=lease,
        heartbeat_seconds=lease / 4,
        reconcile_seconds=1.0,
        redispatch_seconds=10.0,
        grace_seconds=30.0,
    )


class Measurement:
    """Jobs on an installation, of which some are to lose their workers."""

    def __init__(self, plant: Plant, *, rounds: int, rng: random.Random) -> None:
        self.plant, self.rounds, self.rng = plant, rounds, rng
        self.job_ids: list[str] = []

    def fill(self, **orders: object) -> list[str]:
        """Submits until every slot trains; returns the new jobs."""
        missing = SLOTS * len(self.plant.workers) - sum(self.status(job_id) == "running" for job_id in self.job_ids)
        new = [submit(self.plant, max_attempts=100, **{**LONG, **orders}) for _ in range(missing)]
        self.job_ids += new
        for job_id in new:
            wait_training(self.plant, job_id, number=2, seconds=180)
        return new

    def status(self, job_id: str) -> str:
        return str(self.plant.client.insist("GET", f"/v1/jobs/{job_id}").body["status"])

    def has_resumed(self, job_id: str) -> bool:
        """Whether it runs and its newest attempt trains."""
        record = read_job(self.plant, job_id)
        if record is None or record.job.status != "running":
            return False
        acts = read_acts(self.plant, job_id)
        return any(e.act == "resumed" and e.attempt == record.job.attempt for e in acts)

    def restart_fleet(self) -> None:
        """Starts the workers that are gone and waits until every job trains again: one that waits is no free slot."""
        self.plant.restart_dead()
        self.plant.wait_ready(seconds=120)
        for job_id in self.job_ids:
            wait_until(lambda job_id=job_id: self.has_resumed(job_id), seconds=180, pause_seconds=0.2)

    def find_jobs(self, worker: Part) -> list[str]:
        """Jobs that the worker's processes are at."""
        below = take_census(self.plant).below(worker.pid)
        return sorted({process.job_id for process in below if process.job_id is not None})

    def seconds_until(self, job_id: str, *, since: float, event_type: str, limit_seconds: float) -> float:
        """From `since` to the first event of this type after it, by the database's clock."""

        def find() -> float | None:
            record = read_job(self.plant, job_id)
            events = [] if record is None else record.events
            return next((e.created_at for e in events if e.type == event_type and e.created_at >= since), None)

        return float(wait_until(find, seconds=limit_seconds, pause_seconds=0.2)) - since

    def end_all(self) -> list[str]:
        """Cancels what runs and judges every job; returns what is wrong."""
        for job_id in self.job_ids:
            self.plant.client.insist("POST", f"/v1/jobs/{job_id}/cancel")
        for job_id in self.job_ids:
            wait_ended(self.plant, job_id, seconds=180)
        return [problem for job_id in self.job_ids for problem in judge_job(self.plant, job_id)]


def measure_requeue(measurement: Measurement) -> list[Figure]:
    """Whole hosts are killed, each at a moment of its own, half of the fleet a round."""
    plant, rng = measurement.plant, measurement.rng
    requeues: list[float] = []
    lease = plant.options.lease_seconds

    def kill(worker: Part) -> list[float]:
        time.sleep(rng.uniform(0, 10))
        job_ids, killed_at = measurement.find_jobs(worker), time.time()
        kill_all(take_census(plant).below(worker.pid))
        return [
            measurement.seconds_until(job_id, since=killed_at, event_type="job.requeued", limit_seconds=4 * lease + 60)
            for job_id in job_ids
        ]

    for _ in range(measurement.rounds):
        measurement.fill()
        victims = rng.sample(plant.workers, max(1, len(plant.workers) // 2))
        requeues += run_at_once(kill, victims)
        measurement.restart_fleet()
    return [
        build_figure("dead worker to requeued", requeues, goal=f"p99 <= {lease + 5:.0f} s", share=0.99, most=lease + 5),
        measure_lost_work(measurement),
    ]


def measure_lost_work(measurement: Measurement) -> Figure:
    """In checkpoint intervals: training steps that the service had been told of and that had to be done again."""
    journal = read_journal_by_job(measurement.plant.journal)
    lost = []
    for job_id in measurement.job_ids:
        record = read_job(measurement.plant, job_id)
        assert record is not None
        lost += [each.num_lost / each.save_every for each in list_resumptions(record, journal.get(job_id, []))]
    # What was told after the save of an interval began is lost with it: never more than one interval and what passes
    # while the checkpoint goes to storage.
    return build_figure("work lost by a crash, in intervals", lost, goal="all <= 1", share=1.0, most=1.0)


def measure_cancel(measurement: Measurement) -> list[Figure]:
    """From the request to the event, and to the last process of the job; some jobs do not obey."""
    figures = []
    for name, orders, goal, share, most in (
        ("cancel, obeyed, to the last process", {}, "p95 <= 5 s", 0.95, 5.0),
        ("cancel, ignored, to the last process", {"is_stubborn": True}, "all <= 40 s", 1.0, 40.0),
    ):
        seconds: list[float] = []
        for _ in range(measurement.rounds if not orders else 1):
            job_ids = measurement.fill(**orders)
            seconds += run_at_once(lambda job_id: [cancel(measurement, job_id)], job_ids)
        figures.append(build_figure(name, seconds, goal=goal, share=share, most=most))
    return figures


def cancel(measurement: Measurement, job_id: str) -> float:
    """Seconds until the job is cancelled and none of its processes is left."""
    started = time.monotonic()
    assert measurement.plant.client.insist("POST", f"/v1/jobs/{job_id}/cancel").status == 200
    wait_until(
        lambda: not any(each.job_id == job_id for each in take_census(measurement.plant).processes),
        seconds=60,
        pause_seconds=0.1,
    )
    wait_until(lambda: measurement.status(job_id) == "cancelled", seconds=60, pause_seconds=0.1)
    return time.monotonic() - started


def measure_deploy(measurement: Measurement) -> list[Figure]:
    """SIGTERM to workers: their jobs save, go back to the queue uncounted, and the process ends."""
    plant = measurement.plant
    requeues: list[float] = []
    ends: list[float] = []
    uncounted: list[float] = []

    def deploy(worker: Part) -> list[float]:
        job_ids, asked_at, asked = measurement.find_jobs(worker), time.time(), time.monotonic()
        worker.send(signal.SIGTERM)
        assert worker.process is not None
        worker.process.wait(timeout=120)
        ends.append(time.monotonic() - asked)
        return [
            measurement.seconds_until(job_id, since=asked_at, event_type="job.requeued", limit_seconds=120)
            for job_id in job_ids
        ]

    for _ in range(measurement.rounds):
        measurement.fill()
        victims = measurement.rng.sample(plant.workers, max(1, len(plant.workers) // 2))
        requeues += run_at_once(deploy, victims)
        measurement.restart_fleet()
    for job_id in measurement.job_ids:
        record = read_job(plant, job_id)
        assert record is not None
        uncounted.append(float(record.job.failures))
    return [
        build_figure("deploy: SIGTERM to requeued", requeues, goal="all <= 60 s", share=1.0, most=60.0),
        build_figure("deploy: SIGTERM to the worker's end", ends, goal="all <= 60 s", share=1.0, most=60.0),
        build_figure("deploy: failures counted, of a job", uncounted, goal="all 0", share=1.0, most=0.0),
    ]


MEASUREMENTS: dict[str, Callable[[Measurement], list[Figure]]] = {
    "requeue": measure_requeue,
    "cancel": measure_cancel,
    "deploy": measure_deploy,
}


def run_at_once(work: Callable[[Any], list[float]], items: Sequence[Any]) -> list[float]:
    """Calls `work` on all items at the same time; returns all that they return."""
    with ThreadPoolExecutor(max(1, len(items))) as pool:
        return [value for values in pool.map(work, items) for value in values]


def build_figure(name: str, values: list[float], *, goal: str, share: float, most: float) -> Figure:
    """Met when that share of the values is at most `most`."""
    ordered = sorted(values)
    index = min(len(ordered) - 1, int(share * len(ordered)))
    return Figure(name, goal, bool(ordered) and ordered[index] <= most, describe_distribution(values))


def _end(number: int, frame: FrameType | None) -> None:
    """So that what was started is ended."""
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
