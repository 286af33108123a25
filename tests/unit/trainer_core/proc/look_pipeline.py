"""The real pipeline with steps that tell what they see; `--track` is the tracker's process, `--push` any other."""

import os
import socket
import sys
from pathlib import Path

from trainer_core.attempt.secrets_line import read_secrets
from trainer_core.attempt.staged_inputs import StagedRecord
from trainer_core.attempt.tracking_relay import TrackingReader, TrackingRecord, append_record
from trainer_core.context import StepContext, StepResult
from trainer_core.launch.single import SingleLauncher
from trainer_core.pipeline import Launchers
from trainer_core.pipeline import main as run_pipeline
from trainer_core.step_main import main as run_step

HERE = str(Path(__file__))


def describe() -> dict[str, object]:
    return {
        "interfaces": [name for _, name in socket.if_nameindex()],
        "offline": os.environ.get("HF_HUB_OFFLINE"),
        "wandb_mode": os.environ.get("WANDB_MODE"),
        "uid": os.getuid(),
    }


def look(config, context: StepContext) -> StepResult:
    found = {**describe(), "token": config.huggingface_hub_token, "key": config.wandb_api_key}
    # In parts: what looks like a secret is redacted in an event.
    found = {name: list(value) if isinstance(value, str) else value for name, value in found.items()}
    context.events.emit("decision", message="looked", data=found)
    if context.step == "train":
        append_record(context.tracking, TrackingRecord("start", "mlflow", run={"project": "p"}))
        append_record(context.tracking, TrackingRecord("log", "mlflow", metrics={"train/loss": 1.5}, step=1))
        append_record(context.tracking, TrackingRecord("finish", "mlflow", has_succeeded=True))
    return StepResult()


def track() -> int:
    secrets = read_secrets()
    reader, kinds = TrackingReader(Path("attempts/1/tracking.jsonl")), []
    while "end" not in kinds:
        kinds += [record.kind for record in reader.read()]
    told = {**describe(), "secrets": sorted(secrets), "key": list(secrets.get("wandb_api_key", "")), "kinds": kinds}
    Path("tracked.txt").write_text(repr(told))
    return 0


if __name__ == "__main__":
    if "--track" in sys.argv:
        sys.exit(track())
    if "--step" in sys.argv:
        sys.exit(run_step(load_step=lambda step: look, stage=lambda config, steps, inputs: StagedRecord()))
    launchers = Launchers(
        step=SingleLauncher(entry=[HERE]),
        stage=SingleLauncher(entry=[HERE]),
        track=SingleLauncher(entry=[HERE, "--track"]),
    )
    sys.exit(run_pipeline(launchers=launchers))
