"""Trainers: subclasses of transformers' Trainer, chosen by `trainer_key`."""

from typing import TYPE_CHECKING

from trainer_core.trainers.registry import trainers_registry

if TYPE_CHECKING:
    from trainer_core.trainers.lm import LMTrainer

__all__ = ["LMTrainer", "trainers_registry"]


def __getattr__(name: str) -> object:
    # Listing the registry's keys must not import torch.
    if name == "LMTrainer":
        from trainer_core.trainers.lm import LMTrainer

        return LMTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
