"""Liger's kernels for what lies between the products of a model: norms, rotary positions, gated MLPs."""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any

import torch

_PATCHES = "liger_kernel.transformers.monkey_patch"
_replaced: dict[tuple[ModuleType, str], Any] = {}


def find_liger_obstacle(model: Any) -> str | None:
    """Why Liger's kernels cannot be used on a model; None: they can."""
    if not torch.cuda.is_available():
        return "they need a GPU"
    if importlib.util.find_spec("liger_kernel") is None:
        return "the package liger-kernel is not installed"
    if model.config.model_type not in importlib.import_module(_PATCHES).MODEL_TYPE_TO_APPLY_LIGER_FN:
        return f"Liger does not know models of the type {model.config.model_type}"
    return None


def apply_liger(model: Any) -> None:
    """Changes the model in place, and the functions of its module of transformers until `remove_liger`; the loss stays
    as it is."""
    module = sys.modules[type(model).__module__]
    before = dict(vars(module))
    importlib.import_module(_PATCHES)._apply_liger_kernel_to_instance(
        model=model, fused_linear_cross_entropy=False, cross_entropy=False
    )
    for name, value in before.items():
        if vars(module)[name] is value:
            continue
        if isinstance(value, type):
            # The model's own parts have been changed one by one: the class would be for models to come.
            setattr(module, name, value)
        else:
            _replaced.setdefault((module, name), value)


def remove_liger() -> None:
    """Gives transformers' modules their functions back: the next model of the process begins anew."""
    for (module, name), value in _replaced.items():
        setattr(module, name, value)
    _replaced.clear()
