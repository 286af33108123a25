"""Random faults in short: the long runs are `python -m bench.chaos`, and their results lie in bench/results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(290)
@pytest.mark.parametrize("database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_nothing_is_lost_to_random_faults(tmp_path: Path, database: str) -> None:
    # A process of its own: it becomes a subreaper, which is for ever.
    argv = [sys.executable, "-m", "bench.chaos", "--faults", "30", "--rate", "2", "--jobs", "6", "--workers", "2"]
    done = subprocess.run(
        [*argv, "--database", database, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    [path] = tmp_path.glob("chaos-*.json")
    result = json.loads(path.read_text())
    assert result["faults"] == 30
    assert result["jobs_by_status"].get("succeeded", 0) > 0
    counted = ("lost", "double_completions", "stale_writes", "holes", "left_over")
    assert {name: result[name] for name in counted} == dict.fromkeys(counted, 0)
    assert result["orphans_after_5_seconds"] == []
