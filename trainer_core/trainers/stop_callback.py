"""Stops a training after the current step, with a checkpoint, when that was asked for."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SchedulerType

from trainer_core.config.schedulers import FOLLOWS_EVAL_LOSS
from trainer_core.context import StopFlag
from trainer_core.trainers.parallel import RankSums


class StopCallback(TrainerCallback):
    """Saves and stops at the end of the first optimizer step that sees the flag."""

    def __init__(self, stop: StopFlag) -> None:
        self._stop = stop
        self._sums = RankSums()
        self.has_stopped = False
        """True when the training was ended before its last step."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Nothing to do at the last step: it ends, evaluates and saves by itself. Ranks stop at the same step: at
        different ones they would wait for each other for ever."""
        if state.global_step >= state.max_steps or not self._sums.add(int(self._stop.is_set)):
            return
        self.has_stopped = True
        control.should_training_stop = True
        control.should_save = True
        # An evaluation takes time that a stop may not have; but some schedulers live by it.
        follows_eval_loss = SchedulerType(args.lr_scheduler_type).value in FOLLOWS_EVAL_LOSS
        control.should_evaluate = control.should_evaluate and follows_eval_loss
