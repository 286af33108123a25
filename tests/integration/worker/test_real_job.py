"""The whole job on the real trainer: a tiny model is prepared for, tuned, fused and quantized by a real worker."""

import json

import pytest

from app.files.service import FileService
from app.states import JobStatus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
OWNER = "owner"


@pytest.fixture
def real_installation(short_folder, build_installation):
    from tests.support.tiny_models import build_tiny_llama

    models = short_folder / "models"
    build_tiny_llama(models / "tiny")
    return build_installation("real", model_root=models)


def write_rows(count):
    for number in range(count):
        row = {"text_parts": [f"What is {number} plus one?", f"The answer is {number + 1}, of course."]}
        yield json.dumps(row).encode() + b"\n"


def test_four_steps_run_and_their_artifacts_are_published(real_installation):
    installation = real_installation
    worker = installation.start_worker(program="-m worker")
    files = FileService(installation.sessions, installation.storage, installation.settings)
    file = files.create(OWNER, "rows.jsonl", "fine-tune", write_rows(64))

    job_id = installation.submit(
        config={
            "model_name_or_path": "local:tiny",
            "dataset_key": "general",
            "max_steps": 6,
            "save_steps": 3,
            "logging_steps": 1,
            "warmup_steps": 0,
            "max_length": 64,
            "per_device_train_batch_size": 2,
            "quantization_max_samples": 16,
            "huggingface_hub_token": None,
        },
        steps=["prepare", "train", "fuse", "quantize"],
        training_file=file.id,
    )
    job = installation.wait(job_id, seconds=600)

    assert job.status is JobStatus.SUCCEEDED, (job.error, installation.log(job_id)[-20:], worker.log_path.read_text())
    names = {artifact.name for artifact in installation.jobs.list_artifacts(OWNER, job_id)}
    assert names == {"data", "adapter", "fused", "quantized"}
    assert len(installation.events(job_id, "metrics")) >= 6
    seconds = {event.step: event.data["seconds"] for event in installation.events(job_id, "step.finished")}
    assert set(seconds) == {"prepare", "train", "fuse", "quantize"}
    assert str(installation.settings.data_dir) not in read_artifact(installation, job_id, "adapter/adapter_config.json")


def read_artifact(installation, job_id, path):
    artifact = installation.jobs.get_artifact(OWNER, job_id, path)
    return installation.storage.open(artifact.storage_key).read().decode()
