"""Stops a training after the current step, with a checkpoint, when that was asked for."""

from typing import Any

import torch
import torch.distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SchedulerType

from trainer_core.config.schedulers import FOLLOWS_EVAL_LOSS
from trainer_core.context import StopFlag


class StopCallback(TrainerCallback):
    """Saves and stops at the end of the first optimizer step that sees the flag."""

    def __init__(self, stop: StopFlag) -> None:
        self._stop = stop
        self.has_stopped = False
        """True when the training was ended before its last step."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Nothing to do at the last step: it ends, evaluates and saves by itself."""
        if state.global_step >= state.max_steps or not self._is_asked_on_any_rank(args):
            return
        self.has_stopped = True
        control.should_training_stop = True
        control.should_save = True
        # An evaluation takes time that a stop may not have; but some schedulers live by it.
        follows_eval_loss = SchedulerType(args.lr_scheduler_type).value in FOLLOWS_EVAL_LOSS
        control.should_evaluate = control.should_evaluate and follows_eval_loss

    def _is_asked_on_any_rank(self, args: TrainingArguments) -> bool:
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self._stop.is_set
        # Ranks that stopped at different steps would wait for each other for ever.
        flag = torch.tensor(int(self._stop.is_set), device=args.device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        return bool(flag.item())
