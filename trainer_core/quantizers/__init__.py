"""Quantizers: what makes a trained model smaller, by key."""

from typing import TYPE_CHECKING

from trainer_core.quantizers.registry import quantizers_registry

if TYPE_CHECKING:
    from trainer_core.quantizers.base import Quantizer
    from trainer_core.quantizers.gptq import GPTQQuantizer

__all__ = ["GPTQQuantizer", "Quantizer", "quantizers_registry"]

_LAZY = {"Quantizer": "trainer_core.quantizers.base", "GPTQQuantizer": "trainer_core.quantizers.gptq"}


def __getattr__(name: str) -> object:
    # The classes need torch; the registry's keys are listed without it.
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
