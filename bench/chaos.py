"""Random faults on a real installation, and whether anything was lost; loopback only, ends only what it started.

    python -m bench.chaos --faults 300 --seed 7 --database postgres

Prints the figures and writes `bench/results/chaos-<database>-<date>.json`. Exit status 1: an invariant did not hold.
"""

import argparse
import json
import random
import signal
import sys
from pathlib import Path
from types import FrameType

from bench.results_file import FOLDER, write_result
from tests.chaos.chaos import Chaos, ChaosPlan

SETUP = (
    "real servers, workers, Valkey and database on one machine; each worker with a disk of its own, two GPUs that are "
    "none, lease 3 s; training is a stub that counts and saves, one step in three of two ranks"
)


def main() -> int:
    """Runs it and returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=None, help="default: one of its own, which it prints")
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--rate", type=float, default=1.2, help="faults a second, on average")
    parser.add_argument("--jobs", type=int, default=8, help="jobs that are open at a time")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 31) if options.seed is None else options.seed
    signal.signal(signal.SIGTERM, _end)
    print(f"seed {seed}", flush=True)
    plan = ChaosPlan(
        num_faults=options.faults,
        seed=seed,
        database=options.database,
        faults_per_second=options.rate,
        num_open_jobs=options.jobs,
        num_servers=options.servers,
        num_workers=options.workers,
    )
    result = Chaos(plan).run()
    summary = result.summarize()
    print(json.dumps(summary, indent=1))
    for problem in [*result.problems, *result.stream_faults, *result.orphans]:
        print(problem)
    print(f"written: {write_result(f'chaos-{options.database}', summary, setup=SETUP, folder=options.out)}")
    return 0 if result.is_clean else 1


def _end(number: int, frame: FrameType | None) -> None:
    """So that what was started is ended."""
    sys.exit(1)


if __name__ == "__main__":
    sys.exit(main())
