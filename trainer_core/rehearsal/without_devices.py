"""Keeps libraries from asking for GPUs: whoever asks the CUDA driver once keeps its answer until the process ends."""

import ctypes
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

BITSANDBYTES = "bitsandbytes"
_HOLDERS = ("peft.helpers", "transformers.integrations.bitsandbytes")
"""Modules that import bitsandbytes when they are imported, and name it `bnb`."""
_NOT_INITIALIZED = 3
"""CUDA_ERROR_NOT_INITIALIZED."""


def is_built_for_devices() -> bool:
    """Whether this torch can use GPUs at all, by how it was built: no device is looked for."""
    return torch.version.cuda is not None or torch.version.hip is not None


@contextmanager
def without_devices() -> Iterator[None]:
    """Within it torch sees no GPU and does not look for one."""
    answers: list[tuple[Any, str, object]] = [
        (torch.cuda, "is_available", lambda: False),
        (torch.cuda, "device_count", lambda: 0),
        (torch.accelerator, "is_available", lambda: False),
        (torch.accelerator, "device_count", lambda: 0),
        (torch.accelerator, "current_accelerator", lambda *_, **__: None),
    ]
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in answers]
    for owner, name, answer in answers:
        setattr(owner, name, answer)
    try:
        yield
    finally:
        for owner, name, original in kept:
            setattr(owner, name, original)


@contextmanager
def without_bitsandbytes() -> Iterator[None]:
    """Within it bitsandbytes cannot be imported: it opens every GPU as soon as it is."""
    # As Python marks a module that must not be found.
    sys.modules[BITSANDBYTES] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[BITSANDBYTES]


def give_bitsandbytes_back() -> None:
    """Imports it now that the GPUs are chosen, for those that went without; nothing where it is not installed."""
    try:
        package = importlib.import_module(BITSANDBYTES)
    except ImportError:
        return
    for name in _HOLDERS:
        if name in sys.modules:
            vars(sys.modules[name])["bnb"] = package


def has_touched_driver() -> bool:
    """Whether this process has asked the CUDA driver for anything; where there is no driver it has not."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return True
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return bool(driver.cuDeviceGetCount(ctypes.byref(count)) != _NOT_INITIALIZED)
