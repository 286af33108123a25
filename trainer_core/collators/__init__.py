"""Collators: how samples become the tensors of a batch."""

import importlib
from typing import TYPE_CHECKING, Any

from trainer_core.collators.registry import collators_registry

if TYPE_CHECKING:
    from trainer_core.collators.base import BaseCollator
    from trainer_core.collators.building import build_collator
    from trainer_core.collators.chat import ChatCollator
    from trainer_core.collators.completion import CompletionCollator
    from trainer_core.collators.lm import LMCollator

__all__ = ["BaseCollator", "ChatCollator", "CompletionCollator", "LMCollator", "build_collator", "collators_registry"]

_MODULES = {
    "BaseCollator": "base",
    "ChatCollator": "chat",
    "CompletionCollator": "completion",
    "LMCollator": "lm",
    "build_collator": "building",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that reading the registry's keys does not import torch.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
