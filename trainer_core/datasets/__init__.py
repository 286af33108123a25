"""Data sets: where rows come from, and how a row becomes a sample for a collator."""

import importlib
from typing import TYPE_CHECKING, Any

from trainer_core.datasets.registry import datasets_registry

if TYPE_CHECKING:
    from trainer_core.datasets.base import BaseDataset
    from trainer_core.datasets.chat import ChatDataset
    from trainer_core.datasets.general import GeneralDataset
    from trainer_core.datasets.loading import load_dataset
    from trainer_core.datasets.soda import SodaDataset

__all__ = ["BaseDataset", "ChatDataset", "GeneralDataset", "SodaDataset", "datasets_registry", "load_dataset"]

_MODULES = {
    "BaseDataset": "base",
    "ChatDataset": "chat",
    "GeneralDataset": "general",
    "SodaDataset": "soda",
    "load_dataset": "loading",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that reading the registry's keys does not import torch.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
