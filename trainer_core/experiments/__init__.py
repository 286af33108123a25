"""Experiments: all that happens in one training, in order, with a hook before and after each part."""

from typing import TYPE_CHECKING

from trainer_core.experiments.registry import experiments_registry

if TYPE_CHECKING:
    from trainer_core.experiments.base import Experiment

__all__ = ["Experiment", "experiments_registry"]


def __getattr__(name: str) -> object:
    # Listing the registry's keys must not import torch.
    if name == "Experiment":
        from trainer_core.experiments.base import Experiment

        return Experiment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
