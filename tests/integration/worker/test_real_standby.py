"""The stand-by of the real trainer: what it saves, and that a job comes out of it as it does without."""

import json
from typing import Any

import pytest

from app.states import JobStatus
from tests.integration.worker.conftest import OWNER, Installation
from tests.support.standbys import find_waiting
from tests.support.tiny_models import build_tiny_llama

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def models(short_folder):
    build_tiny_llama(short_folder / "models" / "tiny")
    return short_folder / "models"


def submit(installation: Installation, **config: Any) -> str:
    rows = ({"text_parts": [f"What is {number} plus one?", f"It is {number + 1}."]} for number in range(32))
    lines = [json.dumps(row).encode() + b"\n" for row in rows]
    file = installation.files.create(OWNER, "rows.jsonl", "fine-tune", lines)
    values = {
        "model_name_or_path": "local:tiny",
        "dataset_key": "general",
        "max_steps": 4,
        "logging_steps": 1,
        "warmup_steps": 0,
        "max_length": 64,
        "per_device_train_batch_size": 2,
        "lora_dropout": 0.1,
        "huggingface_hub_token": None,
    }
    return installation.submit(config={**values, **config}, training_file=file.id)


def run(installation: Installation, **config: Any) -> str:
    job_id = submit(installation, **config)
    job = installation.wait(job_id, seconds=120)
    assert job.status is JobStatus.SUCCEEDED, (job.error, installation.log(job_id)[-20:])
    return job_id


def was_warm(installation: Installation, job_id: str) -> list[bool]:
    return [event.data["warm"] for event in installation.events(job_id, "step.started")]


def measure_first_step(installation: Installation, job_id: str) -> float:
    return installation.events(job_id, "progress")[0].created_at - installation.get(job_id).created_at


def list_losses(installation: Installation, job_id: str) -> list[float]:
    return [event.data["loss"] for event in installation.events(job_id, "metrics") if "loss" in event.data]


def test_the_first_step_comes_at_once(models, build_installation, until):
    installation = build_installation("warm", model_root=models)
    worker = installation.start_worker(program="-m worker", variables={"FINESMITH_STANDBY": "on"})
    until(lambda: find_waiting(worker.process.pid), seconds=120)

    job_id = run(installation)

    assert was_warm(installation, job_id) == [True, True]
    # About 0.3 s on an idle machine; without a stand-by it is more than 6 s there.
    assert measure_first_step(installation, job_id) < 3.0
    log = installation.log(job_id)
    assert any("train_runtime" in line for line in log), log


@pytest.mark.slow
def test_a_job_comes_out_of_a_stand_by_as_it_does_without(models, build_installation, until):
    installation = build_installation("both", model_root=models)
    cold_worker = installation.start_worker(program="-m worker")
    cold = run(installation)
    cold_worker.terminate()
    worker = installation.start_worker(program="-m worker", variables={"FINESMITH_STANDBY": "on"})
    until(lambda: find_waiting(worker.process.pid), seconds=120)
    warm = run(installation)
    until(lambda: find_waiting(worker.process.pid), seconds=120)
    again = run(installation)

    assert [was_warm(installation, job_id) for job_id in (cold, warm, again)] == [[False] * 2, [True] * 2, [True] * 2]
    assert list_losses(installation, cold) == list_losses(installation, warm) == list_losses(installation, again)
    assert len(list_losses(installation, cold)) == 4
    artifacts = [
        {artifact.path: artifact.sha256 for artifact in installation.jobs.list_artifacts(OWNER, job_id)}
        for job_id in (cold, warm)
    ]
    assert artifacts[0].keys() == artifacts[1].keys()
    assert artifacts[0]["adapter/adapter_model.safetensors"] == artifacts[1]["adapter/adapter_model.safetensors"]
    logs = [{line.partition(":")[0] for line in installation.log(job_id)} for job_id in (cold, warm)]
    # What a library prints when it is imported is not told by a process that has imported it before.
    assert logs[0] - {"[INFO] Running in WANDB offline mode"} == logs[1]
