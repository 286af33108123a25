"""A training that was killed goes on as if nothing had happened."""

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.unit.trainer_core.train.conftest import RecordedEvents, get_losses, make_dataset
from trainer_core.checkpoints import MARKER, newest_complete_checkpoint
from trainer_core.config import Config, dump_config
from trainer_core.context import StepContext, StopFlag
from trainer_core.enums import Step
from trainer_core.errors import StepInterrupted
from trainer_core.experiments import Experiment
from trainer_core.steps.train import train

ROOT = Path(__file__).parents[4]
MakeConfig = Callable[..., Config]


class StopAtStep:
    """Passes events on, and asks to stop when a step's metrics come by."""

    def __init__(self, events: RecordedEvents, *, stop: StopFlag, step: int) -> None:
        self._events, self._stop, self._step = events, stop, step

    def emit(self, type: str, *, message: str = "", level: str = "info", data: Any = None) -> None:
        self._events.emit(type, message=message, level=level, data=data)
        if type == "metrics" and data["global_step"] == self._step - 1:
            self._stop.set()


def train_until_killed(config: Config, *, fatal_step: int) -> None:
    command = [sys.executable, "-m", "tests.unit.trainer_core.train.killed_training"]
    arguments = [json.dumps(dump_config(config)), str(fatal_step)]
    process = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr


# 16 samples in steps of 4 are 4 steps an epoch: the newest checkpoint is of mid-epoch, or of an epoch's end.
@pytest.mark.parametrize(("save_steps", "resumed_from"), [pytest.param(3, 6, marks=pytest.mark.slow), (4, 4)])
def test_a_killed_training_resumes_on_the_curve_of_a_straight_one(
    make_config: MakeConfig,
    tmp_path: Path,
    context: StepContext,
    events: RecordedEvents,
    save_steps: int,
    resumed_from: int,
) -> None:
    options = {
        "apply_lora": True,
        "max_steps": 10,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2,
        "optim": "adamw_8bit",
        "warmup_steps": 2,
        "save_steps": save_steps,
    }
    straight = train(make_config(**options, output_dir=str(tmp_path / "straight")), make_dataset(16))
    config = make_config(**options, output_dir=str(tmp_path / "killed"))
    train_until_killed(config, fatal_step=7)
    half_written = tmp_path / "killed" / "checkpoint-9"
    half_written.mkdir()
    resumed = train(config, make_dataset(16), context=context)
    assert f"resumes from checkpoint-{resumed_from}" in events.messages("decision")
    assert get_losses(resumed) == pytest.approx(get_losses(straight), abs=1e-4)
    assert len(get_losses(resumed)) == 10
    assert not half_written.exists() or (half_written / MARKER).exists()
    assert max(get_losses(straight)) - min(get_losses(straight)) > 0.1
    assert [each["global_step"] for each in events.of_type("metrics") if "loss" in each] == [
        *range(resumed_from + 1, 11)
    ]


def test_a_stop_saves_the_current_step_and_the_next_attempt_goes_on(
    make_config: MakeConfig, events: RecordedEvents, tmp_path: Path
) -> None:
    config = make_config(apply_lora=True, max_steps=6, save_steps=100, gradient_accumulation_steps=2)
    stop = StopFlag()
    context = StepContext(step=Step.TRAIN, events=StopAtStep(events, stop=stop, step=3), stop=stop)
    with pytest.raises(StepInterrupted, match="step 3 of 6"):
        train(config, make_dataset(16), context=context)
    checkpoint = newest_complete_checkpoint(config.output_dir)
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-3"
    assert not (Path(config.output_dir) / MARKER).exists()
    # Saved without checksums, which nobody would look at: only other programs' saves have them.
    assert zipfile.ZipFile(checkpoint / "optimizer.pt").testzip() is not None
    assert torch.serialization.get_crc32_options()
    resumed = train(config, make_dataset(16), context=StepContext(step=Step.TRAIN, events=events))
    assert resumed.result.facts["global_step"] == 6
    assert len(get_losses(resumed)) == 6
    assert resumed.result.facts["train_loss"] == pytest.approx(sum(get_losses(resumed)) / 6)


@pytest.mark.parametrize("logging_steps", [2, 3, 10])
def test_the_loss_of_a_resumed_training_is_the_mean_over_all_steps(
    make_config: MakeConfig, events: RecordedEvents, tmp_path: Path, monkeypatch: Any, logging_steps: int
) -> None:
    class StopsAt(TrainerCallback):
        def __init__(self, step: int, stop: StopFlag) -> None:
            self.step, self.stop = step, stop

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == self.step - 1:
                self.stop.set()

    options = {"max_steps": 7, "save_steps": 100, "learning_rate": 1e-2, "logging_steps": logging_steps}
    straight = train(make_config(**options, output_dir=str(tmp_path / "straight")), make_dataset(16))
    config = make_config(**options, output_dir=str(tmp_path / "stopped"))
    for stops_at in (2, 5):
        stop = StopFlag()
        callback = StopsAt(stops_at, stop)
        context = StepContext(step=Step.TRAIN, events=events, stop=stop)
        monkeypatch.setattr(Experiment, "before_train", lambda self, it=callback: self.trainer.add_callback(it))
        with pytest.raises(StepInterrupted, match=f"step {stops_at} of 7"):
            train(config, make_dataset(16), context=context)
    resumed = train(config, make_dataset(16), context=StepContext(step=Step.TRAIN, events=events))
    assert resumed.result.facts["train_loss"] == pytest.approx(straight.result.facts["train_loss"], abs=1e-4)
    told_at = [record["step"] for record in resumed.trainer.state.log_history if "loss" in record]  # type: ignore[union-attr]
    assert {2, 5, 7} <= set(told_at)


def test_a_finished_training_is_not_trained_further(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents
) -> None:
    config = make_config(apply_lora=True, max_steps=2)
    train(config, make_dataset(16), context=context)
    (Path(config.output_dir) / "adapter_model.safetensors").unlink()
    again = train(config, make_dataset(16), context=context)
    assert again.result.facts["global_step"] == 2
    assert (Path(config.output_dir) / "adapter_model.safetensors").is_file()
    assert len([each for each in events.of_type("metrics") if "loss" in each]) == 2


def test_a_script_starts_anew_unless_it_asks_to_resume(make_config: MakeConfig) -> None:
    config = make_config(apply_lora=True, max_steps=2)
    train(config, make_dataset(8))
    assert len(get_losses(train(config, make_dataset(8)))) == 2
    asked = make_config(apply_lora=True, max_steps=3, resume_from_checkpoint=True)
    assert len(get_losses(train(asked, make_dataset(8)))) == 3
    assert newest_complete_checkpoint(config.output_dir).name == "checkpoint-3"  # type: ignore[union-attr]
