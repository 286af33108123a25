"""Whether a training can be laid into rows, and into which."""

import inspect
from collections.abc import Sequence
from typing import Any

from transformers import Trainer, TrainingArguments

from trainer_core.collators.row_check import encodes_samples
from trainer_core.config import Config
from trainer_core.padding_free.model_check import find_unexact_layers, get_base
from trainer_core.padding_free.rows import RowShape
from trainer_core.trainers.row_trainer import OVERRIDES, RowTrainer


def find_row_obstacle(config: Config, *, trainer_cls: type[Trainer], collator: Any, model: Any) -> str | None:
    """Why samples cannot share a row exactly, as far as it shows without running the model; None: nothing shows."""
    if config.packing == "off":
        return "packing is 'off'"
    if config.neftune_noise_alpha:
        return "NEFTune's noise depends on the length of a row"
    if not issubclass(trainer_cls, RowTrainer) or (changed := find_overrides(trainer_cls)):
        name = trainer_cls.__name__
        return (
            f"the trainer {name} is none of ours"
            if not issubclass(trainer_cls, RowTrainer)
            else (f"the trainer {name} has a {changed[0]} of its own")
        )
    if config.tokens_per_batch is not None and trainer_cls._get_train_sampler is not RowTrainer._get_train_sampler:
        return f"the trainer {trainer_cls.__name__} has a _get_train_sampler of its own, and a budget another order"
    if not encodes_samples(collator):
        return f"the collator {type(collator).__name__} makes its batches itself"
    base = get_base(model)
    return find_unexact_layers(base.config)


def find_overrides(trainer_cls: type[Trainer]) -> Sequence[str]:
    """What a subclass of RowTrainer has changed of that on which rows rely."""
    return [
        name
        for name in OVERRIDES
        if inspect.getattr_static(trainer_cls, name) is not inspect.getattr_static(RowTrainer, name)
    ]


def choose_row_shape(
    config: Config, *, arguments: TrainingArguments, multiple: int, is_static: bool, is_single: bool
) -> RowShape:
    """Rows of a token budget, or as long as a padded pass over the same samples could be at most.

    `is_static`: every row of a budget gets the same length; `is_single`: a batch is one row.
    """
    if config.tokens_per_batch is None:
        capacity = config.per_device_train_batch_size * config.max_length
        return RowShape(capacity=capacity, longest=config.max_length, multiple=multiple, is_single=is_single)
    num_passes = config.gradient_accumulation_steps * max(1, arguments.world_size)
    capacity = max(1, config.tokens_per_batch // num_passes)
    return RowShape(
        capacity=capacity,
        longest=min(capacity, config.max_length),
        multiple=capacity if is_static else multiple,
        is_single=is_single,
    )


def merge_accumulation(arguments: TrainingArguments) -> None:
    """Makes a batch of one process all samples of an optimizer step: they are laid into as few rows as fit.

    Several processes keep their passes: each has to run as many as the others.
    """
    if arguments.world_size > 1:
        return
    arguments.per_device_train_batch_size *= arguments.gradient_accumulation_steps
    arguments.gradient_accumulation_steps = 1
