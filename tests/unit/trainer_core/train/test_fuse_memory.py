"""Fusing needs little more memory than the model has bytes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.trainer_core.train.measured_fuse import build

ROOT = Path(__file__).parents[4]
MODULE = "tests.unit.trainer_core.train.measured_fuse"


pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory as Linux tells it")
MIB = 2**20


def measure(folder: Path, *, way: str, max_shard_size: str) -> int:
    """Bytes at the peak, in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-m", MODULE, way, str(folder), max_shard_size]
    # Else glibc keeps much of what is freed for later, the more the smaller a model's tensors are.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(MIB)}
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return int(finished.stdout.splitlines()[-1])


def list_sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob("*.safetensors")]


@pytest.mark.parametrize("max_shard_size", ["1GB", pytest.param("100MB", marks=pytest.mark.slow)])
def test_shards_are_fused_within_the_memory_of_one_shard_and_the_adapter(tmp_path: Path, max_shard_size: str) -> None:
    build(tmp_path, num_layers=10, hidden_size=1024, max_shard_size="60MB")
    shards = list_sizes(tmp_path / "base")
    assert len(shards) > 4
    peak = measure(tmp_path, way="shards", max_shard_size=max_shard_size)
    assert peak < 1.2 * max(shards) + sum(list_sizes(tmp_path / "adapter")) + 8 * MIB
    assert peak < sum(shards) / 2
    assert sum(list_sizes(tmp_path / "fused")) == pytest.approx(sum(shards), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("max_shard_size", [pytest.param("10GB", id="one file"), pytest.param("200MB", id="shards")])
def test_a_whole_models_merge_takes_at_most_a_fifth_more_memory_than_the_models_bytes(
    tmp_path: Path, max_shard_size: str
) -> None:
    num_bytes = build(tmp_path, num_layers=22, hidden_size=1536, max_shard_size=max_shard_size)
    assert 0.3 < measure(tmp_path, way="whole", max_shard_size=max_shard_size) / num_bytes < 1.2
