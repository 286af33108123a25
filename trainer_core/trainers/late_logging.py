"""What is logged of a step, read while the device computes the next one."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import nested_gather
from transformers.trainer_utils import IntervalStrategy

_OUR_CODE = ("trainer_core.", "transformers.")


@dataclass(slots=True)
class LateRecord:
    """What will be logged of a step.

    To read a loss at once waits for the device, which then has nothing to do until the next step has been prepared.
    """

    values: dict[str, Any]
    """Known when the step had been given to the device."""
    num_steps: int
    """Whose losses are in the loss."""
    num_tokens_seen: int
    """By the training, up to this step."""
    start_time: float
    """Of the training."""
    _names: tuple[str, ...]
    _figures: torch.Tensor
    _arrival: Any

    @classmethod
    def begin(
        cls,
        figures: Mapping[str, torch.Tensor],
        *,
        values: dict[str, Any],
        num_steps: int,
        num_tokens_seen: int,
        start_time: float,
    ) -> "LateRecord":
        """Sends numbers of the device on their way to the host, behind all that the device still has to do."""
        whole = {name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in figures.items()}
        # A norm of gradients that are offloaded is there already.
        values = values | {name: float(each) for name, each in whole.items() if not each.is_cuda}
        sent = {name: each.detach().float() for name, each in whole.items() if each.is_cuda}
        if not sent:
            return cls(values, num_steps, num_tokens_seen, start_time, (), torch.empty(0), None)
        on_host = torch.stack(list(sent.values())).to("cpu", non_blocking=True)
        arrival: Any = torch.Event(next(iter(sent.values())).device)
        arrival.record()
        return cls(values, num_steps, num_tokens_seen, start_time, tuple(sent), on_host, arrival)

    def read(self) -> dict[str, Any]:
        """Waits for the numbers; returns all that will be logged."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self.values | dict(zip(self._names, self._figures.tolist(), strict=True))


class LateLoggingTrainer(Trainer):
    """Trainer whose device goes on while a step's figures are read. A subclass calls `tell_late_record` as soon as it
    has given the device the next step's work."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """As Trainer."""
        self._late_record: LateRecord | None = None
        super().__init__(*args, **kwargs)
        self._known_losses = _KnownLosses()
        self.add_callback(self._known_losses)
        self.logs_late = self.args.device.type == "cuda"
        """Whether it does so: on other devices there is nothing to be gained."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer. A training that fails has told its last step."""
        try:
            return super().train(*args, **kwargs)
        except BaseException:
            # After an error of the device there is nothing left to be read.
            with suppress(Exception):
                self.tell_late_record()
            raise

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As Trainer. What was learned before is told before."""
        self.tell_late_record()
        return super().evaluate(*args, **kwargs)

    def tell_late_record(self) -> None:
        """Logs what was left to be read of the last step."""
        record, self._late_record = self._late_record, None
        if record is None:
            return
        figures = record.read()
        loss = figures.pop("loss")
        self._total_loss_scalar += loss
        num_tokens_seen = self.state.num_input_tokens_seen
        self.state.num_input_tokens_seen = record.num_tokens_seen
        try:
            self.log({"loss": loss / record.num_steps, **figures}, record.start_time)
        finally:
            self.state.num_input_tokens_seen = num_tokens_seen

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As Trainer, but the loss of a resumed training is the mean over all steps that its log and this attempt tell
        of: Trainer adds up the losses since the resume, and divides by all steps."""
        known = self._known_losses
        num_steps = known.num_steps + self.state.global_step - known.resumed_at
        if "train_loss" in logs and num_steps:
            logs["train_loss"] = (known.total + self._total_loss_scalar) / num_steps
        super().log(logs, start_time)

    def _maybe_log_save_evaluate(  # noqa: PLR0913 - Trainer's signature
        self,
        tr_loss: torch.Tensor,
        grad_norm: torch.Tensor | float | None,
        model: nn.Module,
        trial: Any,
        epoch: float,
        ignore_keys_for_eval: list[str] | None,
        start_time: float,
        learning_rate: float | None = None,
    ) -> None:
        """As Trainer, but what is logged of a step after which the training just goes on is read later.

        A step that is saved is logged, too: what was trained before it is in the log of a resumed training.
        """
        self.tell_late_record()
        state, control = self.state, self.control
        control.should_log |= control.should_save and self.args.logging_strategy != IntervalStrategy.NO
        num_steps = state.global_step - self._globalstep_last_logged
        goes_on = not (control.should_evaluate or control.should_save or control.should_training_stop)
        if self.logs_late and goes_on and control.should_log and num_steps > 0 and not self._must_log_at_once():
            rate = self._get_learning_rate() if learning_rate is None else learning_rate
            mean_loss = nested_gather(tr_loss, self.args.parallel_mode).mean()  # type: ignore[no-untyped-call]
            figures: dict[str, Any] = {"loss": mean_loss}
            values: dict[str, Any] = {"learning_rate": rate}
            if grad_norm is not None:
                (figures if isinstance(grad_norm, torch.Tensor) else values)["grad_norm"] = grad_norm
            self._late_record = LateRecord.begin(
                figures,
                values=values,
                num_steps=num_steps,
                num_tokens_seen=state.num_input_tokens_seen,
                start_time=start_time,
            )
            tr_loss -= tr_loss
            self._globalstep_last_logged = state.global_step
            control.should_log = False
        super()._maybe_log_save_evaluate(
            *(tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time), learning_rate=learning_rate
        )

    def _must_log_at_once(self) -> bool:
        """Whether code of the user's own hears of logs: it may stop the training, which then must wait for it."""
        return type(self).log is not LateLoggingTrainer.log or any(
            type(callback).on_log is not TrainerCallback.on_log and not type(callback).__module__.startswith(_OUR_CODE)
            for callback in self.callback_handler.callbacks
        )

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """As Trainer, but DeepSpeed's is left where it is until it is logged."""
        if self.is_deepspeed_enabled and grad_norm is not None:
            return grad_norm
        return super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]


class _KnownLosses(TrainerCallback):
    """What the log of a training tells of its losses when it begins, or is resumed."""

    total = 0.0
    """Of the steps up to the last logged one. A record's loss is the mean of the steps since the one before it."""
    num_steps = 0
    """Up to the last logged one."""
    resumed_at = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.total, self.num_steps, self.resumed_at = 0.0, 0, state.global_step
        for record in state.log_history:
            if "loss" in record:
                self.total += record["loss"] * (record["step"] - self.num_steps)
                self.num_steps = int(record["step"])
