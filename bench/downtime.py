"""Takes the worker's host, the database or Redis away for a while, and looks what became of the jobs; loopback only.

    python -m bench.downtime [--lease 60] [--parallel 4] [--seconds 0 20 60 180]

Every cell is an installation of its own on PostgreSQL. Prints a table and writes `bench/results/downtime-<date>.json`.
Exit status 1: a job did not end, or something was counted twice.
"""

import argparse
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from bench.results_file import FOLDER, write_result
from tests.chaos.client import Unanswered
from tests.chaos.oracle import judge_job, read_job
from tests.chaos.plant import Plant, PlantOptions, run_plant
from tests.chaos.processes import kill_all, take_census
from tests.chaos.work import build_body, submit, wait_ended, wait_training

Place = Literal["worker host", "database", "redis"]
PLACES: tuple[Place, ...] = ("worker host", "database", "redis")
SUBMIT_EVERY_SECONDS = 2.0
NUM_STEPS = 40
STEP_SECONDS = 0.5
SETUP = "PostgreSQL, one server, one worker of two slots, Valkey, a cell each; two jobs of 20 s run when it begins"


@dataclass(frozen=True, slots=True)
class Cell:
    """One outage and what it did."""

    place: Place
    downtime_seconds: float
    jobs: int
    jobs_by_status: dict[str, int]
    submits_by_status: dict[str, int]
    """While it was away; `none`: no answer within 10 s."""
    slowest_submit_seconds: float
    most_attempts: int
    failures: int
    """Lost leases and other failed attempts, of all jobs."""
    steps_finished_twice: int
    seconds_until_all_ended: float
    """Counted from the return."""
    problems: list[str]

    @property
    def is_clean(self) -> bool:
        return not self.problems and not self.steps_finished_twice and set(self.jobs_by_status) == {"succeeded"}


def main() -> int:
    """Runs the matrix and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[0, 20, 60, 180])
    parser.add_argument("--places", choices=PLACES, nargs="+", default=list(PLACES))
    parser.add_argument("--lease", type=float, default=60.0, help="seconds; a fourth of it is the heartbeat")
    parser.add_argument("--parallel", type=int, default=4, help="cells at a time")
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    # The longest first: they decide how long all of it takes.
    wanted = [(place, seconds) for seconds in sorted(options.seconds, reverse=True) for place in options.places]
    with ThreadPoolExecutor(options.parallel) as pool:
        cells = list(pool.map(lambda each: run_cell(*each, lease_seconds=options.lease), wanted))
    print_table(cells)
    figures = {"lease_seconds": options.lease, "cells": [asdict(cell) for cell in cells]}
    print(f"written: {write_result('downtime', figures, setup=SETUP, folder=options.out)}")
    return 0 if all(cell.is_clean for cell in cells) else 1


def run_cell(place: Place, downtime_seconds: float, *, lease_seconds: float) -> Cell:
    """One outage on an installation of its own."""
    options = PlantOptions(
        database="postgres",
        lease_seconds=lease_seconds,
        heartbeat_seconds=lease_seconds / 4,
        reconcile_seconds=1.0,
        redispatch_seconds=10.0,
        grace_seconds=30.0,
        retry_backoff_seconds="10,60,300",
    )
    with run_plant(options) as plant:
        job_ids = [submit(plant, num_steps=NUM_STEPS, step_seconds=STEP_SECONDS, save_every=5) for _ in range(2)]
        for job_id in job_ids:
            wait_training(plant, job_id, number=6)
        with Submitter(plant).running() as submitter:
            take_away(plant, place)
            time.sleep(downtime_seconds)
            bring_back(plant, place)
        returned_at = time.monotonic()
        job_ids += submitter.job_ids
        for job_id in job_ids:
            wait_ended(plant, job_id, seconds=3 * lease_seconds + 300)
        return describe_cell(
            plant, job_ids, submitter, place=place, timing=(downtime_seconds, time.monotonic() - returned_at)
        )


def take_away(plant: Plant, place: Place) -> None:
    """As a crash does: at once, with all that belongs to it."""
    if place == "redis":
        plant.valkey.kill()
    elif place == "database":
        assert plant.postgres is not None
        plant.postgres.kill()
    else:
        [worker] = plant.workers
        kill_all(take_census(plant).below(worker.pid))
        # Else it might look alive when it is to be started again.
        worker.kill()


def bring_back(plant: Plant, place: Place) -> None:
    """Starts it again on what it left."""
    if place == "database":
        assert plant.postgres is not None
        plant.postgres.start()
    else:
        plant.restart_dead()


class Submitter:
    """Submits a small job every two seconds while something is away, and notes the answers."""

    def __init__(self, plant: Plant) -> None:
        self._plant = plant
        self._stop = threading.Event()
        self.job_ids: list[str] = []
        self.answers: list[tuple[str, float]] = []
        """Status and seconds."""

    @contextmanager
    def running(self) -> Iterator["Submitter"]:
        """Submits from now to the end of the block, once at least."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()

    def _run(self) -> None:
        while True:
            started = time.monotonic()
            try:
                answer = self._plant.client.call("POST", "/v1/jobs", body=build_body(self._plant, num_steps=2))
                status = str(answer.status)
                if answer.status == 201:
                    self.job_ids.append(answer.body["id"])
            except Unanswered:
                status = "none"
            self.answers.append((status, time.monotonic() - started))
            if self._stop.wait(SUBMIT_EVERY_SECONDS):
                return


def describe_cell(
    plant: Plant, job_ids: list[str], submitter: Submitter, *, place: Place, timing: tuple[float, float]
) -> Cell:
    """The figures of a cell; `timing`: its downtime, and from the return to the last job's end."""
    records = [record for job_id in job_ids if (record := read_job(plant, job_id)) is not None]
    finished = Counter(
        (record.job.id, event.step) for record in records for event in record.events if event.type == "step.finished"
    )
    return Cell(
        place=place,
        downtime_seconds=timing[0],
        jobs=len(job_ids),
        jobs_by_status=dict(Counter(record.job.status for record in records)),
        submits_by_status=dict(Counter(status for status, _ in submitter.answers)),
        slowest_submit_seconds=round(max(seconds for _, seconds in submitter.answers), 3),
        most_attempts=max(record.job.attempt for record in records),
        failures=sum(record.job.failures for record in records),
        steps_finished_twice=sum(count > 1 for count in finished.values()),
        seconds_until_all_ended=round(timing[1], 1),
        problems=[problem for job_id in job_ids for problem in judge_job(plant, job_id)],
    )


def print_table(cells: list[Cell]) -> None:
    """One line a cell."""
    print(f"{'place':<14}{'away s':>7}{'jobs':>6}{'submits':>24}{'slowest s':>11}{'attempts':>9}{'end s':>8}  problems")
    for cell in sorted(cells, key=lambda cell: (cell.place, cell.downtime_seconds)):
        submits = ", ".join(f"{count} × {status}" for status, count in cell.submits_by_status.items())
        print(
            f"{cell.place:<14}{cell.downtime_seconds:>7.0f}{cell.jobs:>6}{submits:>24}{cell.slowest_submit_seconds:>11.2f}"
            f"{cell.most_attempts:>9}{cell.seconds_until_all_ended:>8.0f}  {'; '.join(cell.problems) or 'none'}"
        )


def _end(number: int, frame: FrameType | None) -> None:
    """So that what was started is ended."""
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
