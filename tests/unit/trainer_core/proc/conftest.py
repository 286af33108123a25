"""Starts the real pipeline on stub steps."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainer_core.attempt.outcome import AttemptResult, read_result
from trainer_core.enums import Step
from trainer_core.events import EventRecord
from trainer_core.job_spec import JobSpec, StepInputs
from trainer_core.workspace import Workspace

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[3]
TOKEN = "hf_" + "s" * 34


class StubJob:
    """A job in a workspace whose steps obey `stub.json`."""

    def __init__(self, root: Path) -> None:
        self.workspace = Workspace(root)
        self.started: list[subprocess.Popen[bytes]] = []

    def write(
        self, orders: dict[str, dict], *, steps: tuple[str, ...] = ("prepare", "train"), attempt: int = 1, **config
    ) -> JobSpec:
        spec = JobSpec(
            job_id="job-1",
            attempt=attempt,
            config={"dataset_key": "default", **config},
            steps=tuple(Step(name) for name in steps),
            inputs=StepInputs(),
        )
        self.workspace.attempt_dir(attempt).mkdir(parents=True, exist_ok=True)
        self.workspace.attempt(attempt).job.write_text(spec.to_json())
        (self.workspace.root / "stub.json").write_text(json.dumps(orders))
        return spec

    def start(self, attempt: int = 1) -> subprocess.Popen[bytes]:
        return self.start_program(HERE / "stub_pipeline.py", attempt=attempt)

    def start_program(self, program: Path, *, attempt: int) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                str(program),
                "--workspace",
                str(self.workspace.root),
                "--attempt",
                str(attempt),
            ],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            start_new_session=True,
        )
        process.stdin.write(json.dumps({"secrets": {"huggingface_hub_token": TOKEN}}).encode() + b"\n")
        process.stdin.flush()
        self.started.append(process)
        return process

    def run(self, attempt: int = 1) -> int:
        process = self.start(attempt)
        status = process.wait(timeout=60)
        process.stdin.close()
        return status

    def result(self, attempt: int = 1) -> AttemptResult | None:
        return read_result(self.workspace.attempt(attempt).result)

    def events(self, attempt: int = 1) -> list[EventRecord]:
        lines = self.workspace.attempt(attempt).events.read_bytes().splitlines()
        return [EventRecord.from_line(line) for line in lines]

    def log(self, attempt: int = 1) -> str:
        return self.workspace.attempt(attempt).output.read_text()


@pytest.fixture
def job(tmp_path: Path) -> Iterator[StubJob]:
    job = StubJob(tmp_path)
    yield job
    for process in job.started:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdin.close()


def wait_until(condition: Callable[[], bool], *, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.01)


@pytest.fixture
def until() -> Callable[..., None]:
    return wait_until


@pytest.fixture
def is_alive() -> Callable[[int], bool]:
    def check(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    return check
