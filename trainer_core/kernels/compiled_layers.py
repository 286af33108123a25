"""Compiling a model layer by layer: one layer's code serves all, so that it takes seconds."""

import importlib.util
import shutil
from typing import Any

import torch
from torch import nn

_MAX_VARIANTS = 64


def find_compile_obstacle() -> str | None:
    """Why this host cannot compile for its GPU; None: it can."""
    if not torch.cuda.is_available():
        return "there is no GPU to compile for"
    if not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        return "the host has no C compiler, which kernels are started through"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return None


def compile_layers(model: Any, *, is_static: bool) -> int:
    """Compiles the decoder's layers in place, and returns how many there are.

    `is_static`: all rows have one length, which the code then knows. The boundaries of the samples are data, so that
    they may differ from row to row. Hooks stay outside: with FSDP they make a layer's weights whole.
    """
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, _MAX_VARIANTS)
    # Dynamo would cut each layer's code where DDP's buckets end; their sums overlap with the other layers' work anyway.
    torch._dynamo.config.optimize_ddp = False
    layers: list[Any] = find_layers(model)
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=False if is_static else None)
    return len(layers)


def find_layers(model: Any) -> list[nn.Module]:
    """The longest list of modules of one class: the decoder's layers."""
    lists: list[Any] = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    alike = [each for each in lists if each and all(type(layer) is type(each[0]) for layer in each)]
    return list(max(alike, key=len, default=()))
