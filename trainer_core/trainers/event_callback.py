"""Tells the progress and the metrics of a training as events."""

import math
import time
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import SchedulerType

from trainer_core.config.schedulers import WITHOUT_WARMUP
from trainer_core.context import EventSink
from trainer_core.trainers.rate import TrainingRate
from trainer_core.trainers.speed_meter import SpeedMeter

_NOT_METRICS = {"num_input_tokens_seen", "train_tokens_per_second", "step"}
_GIB = 2**30


class EventCallback(TrainerCallback):
    """Emits `progress` (at most once in max(1 s, 0.5 % of the time run)) and `metrics` (each log record)."""

    def __init__(self, events: EventSink, *, speed: SpeedMeter | None = None) -> None:
        """`speed`: read with each log record. None: nobody measures it."""
        self._events = events
        self._speed = speed
        self._rate = TrainingRate()
        self._started_at = 0.0
        self._told_at = -math.inf
        self._told_step = -1
        self._loss: float | None = None
        self._tokens_per_second: float | None = None
        self._has_warned_of_nan = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the clock; warns of a warm-up that outlasts the run."""
        self._started_at = time.monotonic()
        self._rate.start(num_tokens_seen=state.num_input_tokens_seen)
        warmup_steps = args.get_warmup_steps(state.max_steps)
        has_warmup = SchedulerType(args.lr_scheduler_type).value not in WITHOUT_WARMUP
        if state.is_world_process_zero and has_warmup and warmup_steps >= state.max_steps:
            self._events.emit(
                "warning",
                level="warning",
                message=(
                    f"warmup_steps={warmup_steps} is not less than the {state.max_steps} steps of this run: the "
                    f"learning rate rises to the end and never reaches {args.learning_rate}; set a lower warmup_steps"
                ),
                data={"param": "warmup_steps", "warmup_steps": warmup_steps, "total_steps": state.max_steps},
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Counts the step, tells the progress if enough time has passed, and has the last step's loss logged."""
        control.should_log = control.should_log or state.global_step >= state.max_steps
        if (control.should_evaluate or control.should_save) and torch.cuda.is_available():
            # What the device still has to do of the step is the training's time.
            torch.cuda.synchronize()
        self._rate.finish_step(num_tokens_seen=state.num_input_tokens_seen)
        now = time.monotonic()
        if now - self._told_at >= max(1.0, 0.005 * (now - self._started_at)):
            self._told_at = now
            self._tell_progress(state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leaves the evaluation's time out of the rate."""
        self._rate.pause()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Leaves the saving's time out of the rate."""
        self._rate.pause()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tells the last step, which the throttle may have held back."""
        if self._told_step != state.global_step:
            self._tell_progress(state)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Passes the log record on."""
        logs: dict[str, Any] = kwargs.get("logs") or {}
        record = {name: value for name, value in logs.items() if name not in _NOT_METRICS}
        if "train_loss" not in record:
            record.pop("train_runtime", None)
        if "loss" in record:
            self._loss = record["loss"]
            self._rate.settle()
            self._tokens_per_second = self._rate.tokens_per_second()
            self._rate.begin_window()
            record["tokens_per_second"] = self._tokens_per_second
            if self._speed is not None:
                record |= self._speed.read(tokens_per_second=self._tokens_per_second)
            self._warn_of_nan(state)
        if torch.cuda.is_available():
            record["peak_memory_gib"] = torch.cuda.max_memory_allocated() / _GIB
        if state.is_world_process_zero:
            self._events.emit("metrics", data={"global_step": state.global_step, **record})

    def _tell_progress(self, state: TrainerState) -> None:
        self._told_step = state.global_step
        if not state.is_world_process_zero:
            return
        data = {
            "global_step": state.global_step,
            "total_steps": state.max_steps,
            "epoch": state.epoch,
            "loss": self._loss,
            "tokens_per_second": self._tokens_per_second or self._rate.tokens_per_second(),
            "eta_seconds": self._rate.eta_seconds(num_steps_left=state.max_steps - state.global_step),
        }
        self._events.emit("progress", data=data)

    def _warn_of_nan(self, state: TrainerState) -> None:
        if self._loss is None or math.isfinite(self._loss) or self._has_warned_of_nan:
            return
        self._has_warned_of_nan = True
        self._events.emit(
            "warning",
            level="warning",
            message=f"the loss is not finite at step {state.global_step}; lower learning_rate, or set force_fp32",
            data={"param": "learning_rate", "global_step": state.global_step},
        )
