"""Quantizers: what makes a trained model smaller, by key."""

from typing import TYPE_CHECKING

from trainer_core.quantizers.registry import quantizers_registry

if TYPE_CHECKING:
    from trainer_core.quantizers.awq import AWQQuantizer
    from trainer_core.quantizers.base import Quantizer
    from trainer_core.quantizers.bnb import BnbQuantizer
    from trainer_core.quantizers.fp8 import FP8Quantizer
    from trainer_core.quantizers.gptq import GPTQQuantizer
    from trainer_core.quantizers.w8a8 import W8A8Quantizer

__all__ = [
    "AWQQuantizer",
    "BnbQuantizer",
    "FP8Quantizer",
    "GPTQQuantizer",
    "Quantizer",
    "W8A8Quantizer",
    "quantizers_registry",
]

_LAZY = {
    "AWQQuantizer": "trainer_core.quantizers.awq",
    "BnbQuantizer": "trainer_core.quantizers.bnb",
    "FP8Quantizer": "trainer_core.quantizers.fp8",
    "GPTQQuantizer": "trainer_core.quantizers.gptq",
    "Quantizer": "trainer_core.quantizers.base",
    "W8A8Quantizer": "trainer_core.quantizers.w8a8",
}


def __getattr__(name: str) -> object:
    # The classes need torch; the registry's keys are listed without it.
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
