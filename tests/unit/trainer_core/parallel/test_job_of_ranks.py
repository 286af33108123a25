"""A job of several processes through the real pipeline: launcher, ranks, markers, and the steps after it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.tiny_models import iterate_sentences
from trainer_core.attempt.outcome import read_result
from trainer_core.enums import Step
from trainer_core.events import EventRecord
from trainer_core.job_spec import JobSpec, StepInputs
from trainer_core.workspace import Workspace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run_attempt(workspace: Workspace, spec: JobSpec) -> int:
    workspace.attempt_dir(spec.attempt).mkdir(parents=True)
    workspace.attempt(spec.attempt).job.write_text(spec.to_json())
    argv = [sys.executable, "-P", "-m", "trainer_core.pipeline"]
    process = subprocess.Popen(
        [*argv, "--workspace", str(workspace.root), "--attempt", str(spec.attempt)],
        stdin=subprocess.PIPE,
        cwd=Path(__file__).parents[4],
        start_new_session=True,
    )
    process.stdin.write(b'{"secrets": {}}\n')
    process.stdin.flush()
    try:
        return process.wait(timeout=600)
    finally:
        process.kill()
        process.stdin.close()


@pytest.mark.parametrize(
    ("values", "strategy"),
    [({"fsdp_strategy": "full_shard auto_wrap"}, "fsdp"), ({"deepspeed_stage": 2}, "zero-2")],
)
def test_a_job_of_two_processes_trains_and_fuses(tiny_llama, tmp_path, values, strategy):
    data = tmp_path / "train.jsonl"
    data.write_text(
        "".join(json.dumps({"text": text}) + "\n" for text, _ in zip(iterate_sentences(), range(32), strict=False))
    )
    workspace = Workspace(tmp_path / "job")
    config = {
        "model_name_or_path": str(tiny_llama),
        "dataset_key": "general",
        "apply_lora": True,
        "max_length": 48,
        "max_steps": 2,
        "warmup_steps": 0,
        "logging_steps": 1,
        **values,
    }
    inputs = StepInputs(prepared_train=str(data))
    spec = JobSpec("job-1", 1, config, (Step.TRAIN, Step.FUSE), inputs, num_processes=2)

    status = run_attempt(workspace, spec)

    log = workspace.attempt(1).output.read_text()
    assert (status, read_result(workspace.attempt(1).result).status) == (0, "succeeded"), log[-6000:]
    events = [EventRecord.from_line(line) for line in workspace.attempt(1).events.read_bytes().splitlines()]
    assert [(event.type, event.step) for event in events if event.type.startswith("step.")] == [
        ("step.started", "train"),
        ("step.finished", "train"),
        ("step.started", "fuse"),
        ("step.finished", "fuse"),
    ]
    told = [event.data for event in events if event.type == "decision" and "strategy" in (event.data or {})]
    assert [(data["strategy"], data["num_processes"]) for data in told] == [(strategy, 2)]
    assert [event.data["global_step"] for event in events if event.type == "checkpoint.saved"] == [2]

    # What is done is not done again: the marker of several processes is like any other.
    assert run_attempt(workspace, replace(spec, attempt=2)) == 0
    again = [EventRecord.from_line(line) for line in workspace.attempt(2).events.read_bytes().splitlines()]
    assert [event.type for event in again] == ["step.skipped", "step.skipped"]


def test_a_strategy_that_one_process_cannot_follow_fails_with_its_option(tiny_llama, tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text('{"text": "a"}\n')
    workspace = Workspace(tmp_path / "job")
    config = {
        "model_name_or_path": str(tiny_llama),
        "dataset_key": "general",
        "fsdp_strategy": "full_shard",
    }
    spec = JobSpec("job-1", 1, config, (Step.TRAIN,), StepInputs(prepared_train=str(data)))

    assert run_attempt(workspace, spec) == 1

    error = read_result(workspace.attempt(1).result).error
    assert (error.param, error.step, error.retryable) == ("fsdp_strategy", "train", False), error
