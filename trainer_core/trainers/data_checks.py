"""Checks of the data against the training arguments, before the model is loaded."""

from collections.abc import Sized
from typing import Any

from transformers import TrainingArguments

from trainer_core.config import Config, ConfigError, Problem
from trainer_core.config.schedulers import FOLLOWS_EVAL_LOSS
from trainer_core.context import EventSink
from trainer_core.errors import DataError


def check_data(
    config: Config, *, arguments: TrainingArguments, train_dataset: Any, eval_dataset: Any, events: EventSink
) -> None:
    """Raises DataError for data without a sample and ConfigError for what data of this kind cannot do.

    Fewer samples than an optimizer step takes are a warning: each pass is then one step over all of them.
    """
    num_samples = len(train_dataset) if isinstance(train_dataset, Sized) else None
    if num_samples == 0:
        raise DataError("the training data hold no sample; prepare them anew, or pass another train_dataset")
    if num_samples is None and config.max_steps is None:
        message = "the training data have no length, so that max_steps has to say when the training ends; set it"
        raise ConfigError([Problem(message, "max_steps", "missing_input")])
    if config.lr_scheduler_type in FOLLOWS_EVAL_LOSS and eval_dataset is None:
        message = (
            f"lr_scheduler_type={config.lr_scheduler_type!r} follows the loss on evaluation data, and there are none; "
            "give some, or choose another scheduler"
        )
        raise ConfigError([Problem(message, "lr_scheduler_type", "conflict")])
    step_size = (
        arguments.per_device_train_batch_size * arguments.gradient_accumulation_steps * max(1, arguments.world_size)
    )
    if num_samples is not None and num_samples < step_size and arguments.process_index == 0:
        message = (
            f"the training data hold {num_samples} samples, fewer than the {step_size} of one optimizer step "
            "(per_device_train_batch_size × gradient_accumulation_steps × processes): each pass is one step over all"
        )
        data = {"param": "per_device_train_batch_size", "num_samples": num_samples, "step_size": step_size}
        events.emit("warning", level="warning", message=message, data=data)
