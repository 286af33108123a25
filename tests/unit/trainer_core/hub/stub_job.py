"""The real pipeline, staging and push programs, with a step program that trains nothing: `stub_job.py [step] …`.

Training writes the checkpoints that `stub.json` in the workspace lists, and deletes each before the next; it waits for
what `stub.json` says it shall see in the attempt's events.
"""

import json
import sys
import time
from pathlib import Path

from trainer_core.checkpoints import mark_complete
from trainer_core.config import Config
from trainer_core.context import ArtifactFolder, StepContext, StepResult
from trainer_core.enums import Step
from trainer_core.launch.single import SingleLauncher
from trainer_core.pipeline import Launchers
from trainer_core.pipeline import main as run_pipeline
from trainer_core.step_main import main as run_step_main


def load_step(step: Step):
    return {Step.TRAIN: train, Step.FUSE: fuse, Step.QUANTIZE: quantize}[step]


def train(config: Config, context: StepContext) -> StepResult:
    orders = json.loads(Path("stub.json").read_text())
    output_dir = Path(config.output_dir)
    for number in orders.get("checkpoints", ()):
        folder = output_dir / f"checkpoint-{number}"
        write_adapter(folder, text=f"{number}")
        (folder / "optimizer.pt").write_bytes(b"never pushed")
        mark_complete(folder)
        wait_for_event(orders.get("waits_for"), number)
    if orders.get("is_killed"):
        raise ValueError("broken in mid-training")
    write_adapter(output_dir, text="final")
    return StepResult((ArtifactFolder.of_files_in(output_dir, name="adapter"),), {"train_loss": 0.25})


def fuse(config: Config, context: StepContext) -> StepResult:
    return write_model(Path(config.fused_model_local_path), "fused")


def quantize(config: Config, context: StepContext) -> StepResult:
    return write_model(Path(config.quantized_model_path), "quantized")


def write_adapter(folder: Path, *, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(text.encode() * 1000)


def write_model(folder: Path, name) -> StepResult:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(name.encode() * 1000)
    return StepResult((ArtifactFolder.of_files_in(folder, name=name),), {"source": str(folder)})


def wait_for_event(event_type: str | None, number: int) -> None:
    (events,) = Path("attempts").glob("*/events.jsonl")
    deadline = time.monotonic() + 30
    while event_type is not None and time.monotonic() < deadline:
        lines = [line for line in events.read_text().splitlines() if f'"{event_type}"' in line]
        if any(f"checkpoint of step {number} " in line or f"checkpoint-{number} " in line for line in lines):
            return
        time.sleep(0.02)


if __name__ == "__main__":
    if sys.argv[1] == "step":
        sys.exit(run_step_main(sys.argv[2:], load_step=load_step))
    sys.exit(run_pipeline(launchers=Launchers(step=SingleLauncher(entry=[__file__, "step"]))))
