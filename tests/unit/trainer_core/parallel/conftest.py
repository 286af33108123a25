"""Starts trainings of several processes, and the same training in one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny_models import build_tiny_llama

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[3]
TORCHRUN = ("torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--nproc-per-node=2")
DEEPSPEED = ("deepspeed.launcher.runner", "--num_gpus=2", "--master_addr=127.0.0.1", "--master_port=29517")


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def make_values(tiny_llama: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def make(name: str, **values: Any) -> dict[str, Any]:
        return {
            "model_name_or_path": str(tiny_llama),
            "output_dir": str(tmp_path / name),
            "dataset_key": "general",
            "max_length": 48,
            "warmup_steps": 0,
            "optim": "adamw_torch",
            "logging_steps": 1,
            "lora_dropout": 0.0,
            "max_steps": 4,
            "save_steps": 4,
            "per_device_train_batch_size": 2,
            "path_to_env_file": None,
            **values,
        }

    return make


@pytest.fixture
def train_ranks(tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """Runs the scenarios one after the other in the processes of one launch (none: in one process)."""

    def run(scenarios: list[dict[str, Any]], *, launcher: tuple[str, ...] = TORCHRUN) -> list[dict[str, Any]]:
        result = tmp_path / "result.json"
        result.unlink(missing_ok=True)
        program = [str(HERE / "trained_ranks.py"), json.dumps(scenarios), str(result)]
        done = run_program([sys.executable, *(["-m", *launcher] if launcher else []), *program], cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-6000:]
        return json.loads(result.read_text())

    return run


def run_program(argv: list[str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    # Another test of this process may have made it a group of one.
    place = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ACCELERATE_USE_DEEPSPEED")
    environment = {name: value for name, value in os.environ.items() if name not in place}
    return subprocess.run(
        argv,
        cwd=cwd,
        env={**environment, "PYTHONPATH": str(REPOSITORY), "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
