"""Trains scenario after scenario in one rank: started by a launcher with the scenarios as JSON and a result file."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate.state import AcceleratorState
from transformers import TrainerCallback

from tests.unit.trainer_core.train.conftest import RecordedEvents, get_losses, make_dataset
from trainer_core.config import build_config
from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.errors import StepInterrupted
from trainer_core.experiments import Experiment, experiments_registry
from trainer_core.ranks import count_ranks, find_rank
from trainer_core.steps.train import train


class Stopper(TrainerCallback):  # type: ignore[misc]
    """Asks the second rank alone to stop, as if it alone had heard."""

    def __init__(self, context: StepContext, step: int) -> None:
        self._context = context
        self._step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step - 1 and find_rank() == 1:
            self._context.stop.set()


class StoppedExperiment(Experiment):
    """Is asked to stop at the step `stop_at`."""

    stop_at = 0

    def before_train(self) -> None:
        assert self.trainer is not None
        self.trainer.callback_handler.callbacks.insert(0, Stopper(self.context, self.stop_at))


class LateExperiment(Experiment):
    """Reads what it logs of a step while the next one is computed, as on GPUs."""

    def before_train(self) -> None:
        trainer: Any = self.trainer
        trainer.logs_late = True


class SlowlySavingExperiment(Experiment):
    """Takes its time to write what it saves, which the first rank alone does."""

    def before_train(self) -> None:
        trainer: Any = self.trainer
        save = trainer._save

        def save_slowly(*args: Any, **kwargs: Any) -> None:
            time.sleep(1.5)
            save(*args, **kwargs)

        trainer._save = save_slowly


def run_scenario(scenario: dict[str, Any]) -> dict[str, Any]:
    os.environ.pop("ACCELERATE_USE_FSDP", None)
    AcceleratorState._reset_state(reset_partial_state=True)
    StoppedExperiment.stop_at = scenario.get("stop_at", 0)
    events = RecordedEvents()
    plain = "late" if count_ranks() > 1 else "base"
    experiment_key = "stopped" if "stop_at" in scenario else scenario.get("experiment_key", plain)
    config = build_config({**scenario["config"], "experiment_key": experiment_key})
    context = StepContext(step=Step.TRAIN, events=events)
    outcome: dict[str, Any] = {"losses": [], "stopped": False, "error": None}
    try:
        eval_dataset = make_dataset(8) if config.do_eval else None
        experiment = train(config, make_dataset(32), eval_dataset, context=context)
        outcome["losses"] = get_losses(experiment)
        outcome["finds_unused"] = experiment.trainer.args.ddp_find_unused_parameters  # type: ignore[union-attr]
        history = experiment.trainer.state.log_history  # type: ignore[union-attr]
        outcome["eval_losses"] = [record["eval_loss"] for record in history if "eval_loss" in record]
    except StepInterrupted:
        outcome["stopped"] = True
    outcome["ends_apart"] = measure_ends()
    outcome["strategies"] = [data["strategy"] for data in events.of_type("decision") if "strategy" in data]
    outcome["wrappers"] = [data["wrapper"] for data in events.of_type("decision") if "wrapper" in data]
    outcome["decisions"] = events.messages("decision")
    outcome["warnings"] = events.messages("warning")
    outcome["checkpoints"] = [data["global_step"] for data in events.of_type("checkpoint.saved")]
    return outcome


def measure_ends() -> float:
    """Seconds between the first and the last rank to come here."""
    if count_ranks() == 1:
        return 0.0
    ends: list[Any] = [None] * count_ranks()
    torch.distributed.all_gather_object(ends, time.monotonic())
    return float(max(ends) - min(ends))


if __name__ == "__main__":
    experiments_registry.add(key="late", value=LateExperiment)
    experiments_registry.add(key="slow", value=SlowlySavingExperiment)
    experiments_registry.add(key="stopped", value=StoppedExperiment)
    outcomes = [run_scenario(each) for each in json.loads(sys.argv[-2])]
    if find_rank() == 0:
        Path(sys.argv[-1]).write_text(json.dumps(outcomes))
