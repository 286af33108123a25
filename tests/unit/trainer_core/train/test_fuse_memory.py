"""Fusing needs the memory of some tensors, or little more than the model has bytes."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.trainer_core.train.measured_fuse import build

ROOT = Path(__file__).parents[4]
MODULE = "tests.unit.trainer_core.train.measured_fuse"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory as Linux tells it")
@pytest.mark.parametrize("max_shard_size", [pytest.param("10GB", id="one file"), pytest.param("200MB", id="shards")])
@pytest.mark.parametrize(
    ("device_map", "least", "most"),
    [pytest.param("", 0.0, 0.18, id="tensor by tensor"), pytest.param("cpu", 0.3, 1.2, id="the whole model")],
)
def test_fusing_takes_little_memory(
    tmp_path: Path, max_shard_size: str, device_map: str, least: float, most: float
) -> None:
    num_bytes = build(tmp_path, num_layers=22, hidden_size=1536, max_shard_size=max_shard_size)
    command = [sys.executable, "-W", "ignore", "-m", MODULE, str(tmp_path), max_shard_size, device_map]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert least < int(finished.stdout.splitlines()[-1]) / num_bytes < most
