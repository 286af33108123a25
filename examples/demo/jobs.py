"""The demo's jobs: their configs, how they are run, and what their events say about time."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from finesmith import Client, Job

JOB_SECONDS = 3600.0

BASE_CONFIG: Mapping[str, object] = {
    "model_name_or_path": "local:untrained",
    "max_length": 256,
    "per_device_train_batch_size": 2,
    "max_steps": 160,
    "learning_rate": 2e-3,
    "warmup_steps": 20,
    "optim": "adamw_torch",
    "logging_steps": 10,
    "save_steps": 1000,
}
"""Full training of the untrained model on plain text: at most half a minute on two cores."""

TUNING_CONFIG: Mapping[str, object] = {
    "apply_lora": True,
    "lora_rank": 64,
    "lora_alpha": 64,
    "lora_dropout": 0.0,
    # A model that has read a few thousand words knows few of the dialogues': its tables of words need tuning too.
    "raw_lora_target_modules": [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
        *("embed_tokens", "lm_head"),
    ],
    "max_length": 512,
    "per_device_train_batch_size": 2,
    "max_steps": 140,
    "learning_rate": 4e-3,
    "warmup_steps": 20,
    "optim": "adamw_torch",
    "logging_steps": 10,
    "save_steps": 1000,
    "quantization_max_samples": 128,
}
"""LoRA on a model of two million weights, which takes and needs a high learning rate."""

OWN_MODEL_CONFIG: Mapping[str, object] = {
    "apply_lora": True,
    "lora_rank": 16,
    "max_length": 512,
    "per_device_train_batch_size": 8,
    "max_steps": 60,
    "learning_rate": 2e-4,
    "warmup_steps": 5,
    "optim": "adamw_torch",
    "logging_steps": 2,
    "save_steps": 1000,
}
"""LoRA on a model that somebody brought."""


@dataclass(frozen=True)
class StepTime:
    """How long one step of one job took."""

    job: str
    name: str
    seconds: float
    """From the start of its process's work to its end, imports included."""
    import_seconds: float
    """The part of it in which Python loaded libraries."""


def run_job(client: Client, *, name: str, config: Mapping[str, object], **options: object) -> Job:
    """Submits a job and waits for it with a progress bar. Raises finesmith.JobFailed."""
    job = client.jobs.create(config=config, name=name, **options)  # type: ignore[arg-type]
    return job.wait(timeout=JOB_SECONDS)


def read_step_times(job: Job) -> list[StepTime]:
    """The job's steps with what their last events say."""
    times = []
    for event in job.events():
        if event.type == "step.finished":
            facts = event.data.get("facts") or {}
            imports = float(event.data.get("import_seconds", 0)) + float(facts.get("library_import_seconds", 0))
            times.append(StepTime(str(job.name), str(event.step), float(event.data["seconds"]), imports))
    return times


def download_folder(job: Job, *, name: str, target: Path) -> Path:
    """Brings one folder of the job's artifacts to `target`, which must not exist."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    job.download(partial, prefix=name)
    (partial / name).rename(target)
    partial.rmdir()
    return target
