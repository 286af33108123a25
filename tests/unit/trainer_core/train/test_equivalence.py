"""Trainings that are written differently and are the same."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.unit.trainer_core.train.conftest import RecordedEvents, get_losses, make_dataset
from tests.unit.trainer_core.train.test_optimizers import HERE, ignore_deprecations
from trainer_core.config import Config
from trainer_core.config.optimizers import resumes_exactly
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


@pytest.mark.parametrize(
    "options",
    [
        {
            "apply_lora": True,
            "loraplus_lr_ratio": 16,
            "lr_scheduler_type": "cosine_with_restarts",
            "optim": "adamw_8bit",
        },
        {"lr_scheduler_type": "warmup_stable_decay", "lr_scheduler_kwargs": {"num_decay_steps": 2}, "warmup_steps": 2},
        {
            **{"lr_scheduler_type": "reduce_lr_on_plateau", "eval_steps": 1},
            "lr_scheduler_kwargs": {"patience": 0, "threshold": 10.0},
        },
        {"optim": "schedule_free_adamw", "lr_scheduler_type": "constant"},
        {"optim": "lion_8bit", "label_smoothing_factor": 0.1, "neftune_noise_alpha": 5.0},
        {"optim": "galore_adafactor", "optim_args": "rank=4,update_proj_gap=2"},
    ],
    ids=["LoRA+", "warmup-stable-decay", "plateau", "schedule-free", "Lion with noise", "GaLore"],
)
def test_a_resumed_training_is_the_straight_one(
    make_config: MakeConfig, tmp_path: Path, events: RecordedEvents, options: dict[str, object]
) -> None:
    check_that_resuming_changes_nothing(make_config, tmp_path, events, options)


@pytest.mark.slow
@pytest.mark.parametrize("optim", [name for name in HERE if resumes_exactly(name)])
def test_a_resumed_training_is_the_straight_one_with_every_optimizer(
    make_config: MakeConfig, tmp_path: Path, events: RecordedEvents, optim: str
) -> None:
    options: dict[str, object] = {"optim": optim, "learning_rate": 1e-3}
    if optim == "lomo":
        # It updates within the backward pass.
        options["gradient_accumulation_steps"] = 1
    check_that_resuming_changes_nothing(make_config, tmp_path, events, options)


def check_that_resuming_changes_nothing(
    make_config: MakeConfig, tmp_path: Path, events: RecordedEvents, options: dict[str, object]
) -> None:
    options = {"max_steps": 6, "learning_rate": 5e-3, "eval_steps": 2, "gradient_accumulation_steps": 2, **options}
    data, eval_data = make_dataset(16), make_dataset(4)
    with ignore_deprecations():
        straight = train(make_config(**options, output_dir=str(tmp_path / "straight")), data, eval_data)
    config = make_config(**options, output_dir=str(tmp_path / "stopped"))
    stop = StopFlag()
    context = StepContext(step=Step.TRAIN, events=StopAtStep(events, stop=stop, step=3), stop=stop)
    with ignore_deprecations(), pytest.raises(StepInterrupted, match="step 3 of 6"):
        train(config, data, eval_data, context=context)
    with ignore_deprecations():
        resumed = train(config, data, eval_data, context=StepContext(step=Step.TRAIN, events=events))
    assert get_losses(resumed) == pytest.approx(get_losses(straight), abs=1e-4)
    assert get_rates(resumed) == pytest.approx(get_rates(straight))
    name = "adapter_model.safetensors" if config.apply_lora else "model.safetensors"
    expected, found = (load_file(tmp_path / folder / name) for folder in ("straight", "stopped"))
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, atol=1e-4, rtol=1e-3)


def get_rates(experiment: Experiment) -> list[float]:
    history = experiment.trainer.state.log_history  # type: ignore[union-attr]
    return [record["learning_rate"] for record in history if "learning_rate" in record]


def test_without_dropout_and_noise_the_first_loss_is_the_evaluations(make_config: MakeConfig) -> None:
    config = make_config(
        apply_lora=True, lora_dropout=0.0, max_steps=1, per_device_train_batch_size=8, per_device_eval_batch_size=8
    )
    experiment = Experiment(config, train_dataset=make_dataset(8), eval_dataset=make_dataset(8))
    experiment.build()
    before = experiment.trainer.evaluate()["eval_loss"]  # type: ignore[union-attr]
    experiment.run()
    assert get_losses(experiment) == pytest.approx([before], abs=1e-5)


def test_fewer_samples_than_a_step_takes_are_one_step_over_all_of_them(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents
) -> None:
    few = train(
        make_config(per_device_train_batch_size=2, gradient_accumulation_steps=4, optim="sgd"),
        make_dataset(3),
        context=context,
    )
    exact = train(make_config(per_device_train_batch_size=3, optim="sgd"), make_dataset(3))
    assert few.result.facts["global_step"] == 1
    assert get_losses(few) == pytest.approx(get_losses(exact), abs=1e-5)
    warned = [each for each in events.of_type("warning") if each.get("param") == "per_device_train_batch_size"]
    assert (warned[0]["num_samples"], warned[0]["step_size"]) == (3, 8)


@pytest.mark.slow
def test_the_command_line_accumulates_exactly(make_config: MakeConfig, tmp_path: Path) -> None:
    rows = tmp_path / "train.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in make_dataset(16).data))
    flags = {
        **{"model_name_or_path": make_config().model_name_or_path, "train_local_path_to_data": rows},
        **{"dataset_key": "general", "apply_lora": True, "lora_dropout": 0, "max_steps": 2, "warmup_steps": 0},
        **{"optim": "sgd", "learning_rate": 0.1, "logging_steps": 1, "label_smoothing_factor": 0.1},
        **{"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": '{"num_cycles": 1}', "loraplus_lr_ratio": 4},
    }
    losses, weights = [], []
    for name, batch_size, accumulated in (("whole", 8, 1), ("cut", 1, 8)):
        own = {
            "output_dir": tmp_path / name,
            "per_device_train_batch_size": batch_size,
            "gradient_accumulation_steps": accumulated,
        }
        command = [sys.executable, "-m", "trainer_core", "train"]
        command += [text for key, value in {**flags, **own}.items() for text in (f"--{key}", str(value))]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stderr
        state = json.loads((tmp_path / name / "checkpoint-2" / "trainer_state.json").read_text())
        losses.append([record["loss"] for record in state["log_history"] if "loss" in record])
        weights.append(load_file(tmp_path / name / "adapter_model.safetensors"))
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert len(losses[0]) == 2
    for key, weight in weights[0].items():
        torch.testing.assert_close(weights[1][key], weight, atol=1e-6, rtol=1e-4)
