"""Takes back what a rehearsal leaves in its process, so that a job finds it as fresh imports would have left it."""

import functools
import gc
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState

_ASKING_PACKAGES = frozenset({"torch", "transformers", "accelerate", "peft"})
_ASKING_NAMES = ("is_", "has_", "get_device", "device_count")
"""How functions begin that look for hardware and packages, and keep the answer."""


@contextmanager
def leaving_no_trace() -> Iterator[None]:
    """Restores random states, environment, warnings and what libraries remember of a device. Frees all memory that was
    made within and is not needed; what is left is looked through for garbage never again, which takes long."""
    environ = dict(os.environ)
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    handlers = list(logging.getLogger().handlers)
    with warnings.catch_warnings():
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.set_rng_state(torch_state)
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
            logging.getLogger().handlers[:] = handlers
            for name in set(os.environ) - set(environ):
                del os.environ[name]
            os.environ.update(environ)
    forget_answers()
    gc.collect()
    gc.freeze()


def forget_answers() -> None:
    """Empties the caches of functions that say what this host has: they were asked while no GPU was to be seen."""
    for each in gc.get_objects():
        if type(each) is functools._lru_cache_wrapper and _asks_for_hardware(each):
            each.cache_clear()


def _asks_for_hardware(function: "functools._lru_cache_wrapper[object]") -> bool:
    package = (function.__module__ or "").partition(".")[0]
    return package in _ASKING_PACKAGES and function.__name__.startswith(_ASKING_NAMES)
