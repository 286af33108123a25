"""What is logged of a step while the device computes the next one is what would have been logged at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.unit.trainer_core.train.conftest import RecordedEvents, make_dataset
from trainer_core.config import Config
from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.experiments import Experiment
from trainer_core.steps.train import train
from trainer_core.trainers import trainers_registry
from trainer_core.trainers.lm import LMTrainer
from trainer_core.trainers.row_trainer import RowTrainer

MakeConfig = Callable[..., Config]
_CLOCKS = ("_runtime", "_per_second")


def train_and_list(config: Config, *, logs_late: bool, monkeypatch: Any) -> tuple[list[Any], list[Any], Experiment]:
    """The log without what clocks tell, and which events came in which order."""

    def choose(self: Any) -> None:
        assert isinstance(self.trainer, RowTrainer)
        self.trainer.logs_late = logs_late

    monkeypatch.setattr(Experiment, "before_train", choose)
    events = RecordedEvents()
    experiment = train(config, make_dataset(20), make_dataset(4), context=StepContext(step=Step.TRAIN, events=events))
    trainer: Any = experiment.trainer
    log = [
        {name: value for name, value in record.items() if not name.endswith(_CLOCKS)}
        for record in trainer.state.log_history
    ]
    order = [
        (type, data["global_step"], "loss" in data)
        for type, _, data in events.all
        if type in ("metrics", "checkpoint.saved")
    ]
    return log, order, experiment


@pytest.mark.parametrize(
    "values",
    [
        {"max_steps": 9, "save_steps": 4, "do_eval": True, "eval_steps": 6},
        {"max_steps": 8, "logging_steps": 3, "gradient_accumulation_steps": 2, "packing": "off"},
        {"num_train_epochs": 2, "tokens_per_batch": 96},
    ],
)
def test_the_log_is_the_same(make_config: MakeConfig, tmp_path: Path, monkeypatch: Any, values: dict[str, Any]) -> None:
    at_once, late = (
        train_and_list(
            make_config(**values, output_dir=str(tmp_path / str(logs_late))),
            logs_late=logs_late,
            monkeypatch=monkeypatch,
        )
        for logs_late in (False, True)
    )

    assert len(at_once[0]) > 3
    assert late[0] == [pytest.approx(record) for record in at_once[0]]
    assert late[1] == at_once[1]


class OwnLog(LMTrainer):
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        super().log(logs, start_time)


class OwnStep(LMTrainer):
    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        return super().training_step(*args, **kwargs)


@pytest.mark.parametrize(
    ("trainer_cls", "num_known"), [(LMTrainer, [0, 0, 1]), (OwnLog, [0, 1, 2]), (OwnStep, [0, 1, 2])]
)
def test_what_a_trainer_of_ones_own_may_hear_of_is_logged_at_once(
    make_config: MakeConfig, monkeypatch: Any, trainer_cls: type[LMTrainer], num_known: list[int]
) -> None:
    known = []

    class Counts(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            known.append(len(state.log_history))

    def choose(self: Any) -> None:
        self.trainer.logs_late = True
        self.trainer.add_callback(Counts())

    monkeypatch.setattr(Experiment, "before_train", choose)
    trainers_registry.add(key="own", value=trainer_cls, override=True)
    train(make_config(max_steps=3, trainer_key="own"), make_dataset(20))
    assert known == num_known


def test_a_callback_that_hears_of_logs_stops_the_training_at_once(make_config: MakeConfig, monkeypatch: Any) -> None:
    class StopsAtSecondLog(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = control.should_training_stop or state.global_step == 2

    def choose(self: Any) -> None:
        self.trainer.logs_late = True
        self.trainer.add_callback(StopsAtSecondLog())

    monkeypatch.setattr(Experiment, "before_train", choose)
    experiment = train(make_config(max_steps=6), make_dataset(20))
    assert experiment.trainer.state.global_step == 2  # type: ignore[union-attr]


def test_a_training_that_fails_has_told_its_last_step(make_config: MakeConfig, monkeypatch: Any) -> None:
    def choose(self: Any) -> None:
        self.trainer.logs_late = True
        self.trainer.get_batch_samples = fail_after(self.trainer.get_batch_samples, 3)

    def fail_after(get: Any, count: int) -> Any:
        calls = iter(range(count))

        def get_or_fail(*args: Any) -> Any:
            if next(calls, None) is None:
                raise OSError("the data has gone")
            return get(*args)

        return get_or_fail

    monkeypatch.setattr(Experiment, "before_train", choose)
    events = RecordedEvents()
    with pytest.raises(OSError, match="the data has gone"):
        train(make_config(max_steps=6), make_dataset(20), context=StepContext(step=Step.TRAIN, events=events))

    assert [data["global_step"] for data in events.of_type("metrics")] == [1, 2, 3]
