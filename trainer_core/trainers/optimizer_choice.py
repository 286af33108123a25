"""Which optimizer runs on this machine: the Config's, or what takes its place."""

import importlib
import importlib.util
from typing import Any

import torch

from trainer_core.config import Config, ConfigError, Problem
from trainer_core.config.optimizers import NEEDS_CUDA, PACKAGES, resumes_exactly
from trainer_core.config.training_checks import DEFAULT_OPTIMIZER
from trainer_core.context import EventSink

_BITSANDBYTES_WORDS = ("8bit", "32bit", "paged_", "bnb", "ademamix", "lion")

_WITHOUT_PAGES = {"paged_adamw_32bit": "adamw_torch", "paged_ademamix_32bit": "ademamix"}
"""The same optimizer without pages, where transformers has another name for it than the one without `paged_`."""

_STATE_MODULES = {
    "apollo_": ("apollo_torch.random_projector", "apollo_torch.svd_projector"),
    "galore_": ("galore_torch.galore_projector",),
}
"""Modules of the objects that optimizers whose names start so keep in their state."""


def choose_optimizer(config: Config, *, events: EventSink) -> str:
    """transformers' name of the optimizer that runs.

    On the CPU a paged optimizer is the same one without pages; where bitsandbytes cannot be used, torch's nearest takes
    its place. A warning event tells either. Raises ConfigError when the optimizer needs
    a package or a device that is not there.
    """
    wanted = config.optim or DEFAULT_OPTIMIZER
    _check_can_run(wanted)
    if not resumes_exactly(wanted):
        _tell_replacement(
            events,
            f"optim={wanted!r} keeps not all of its state in checkpoints: one that resumes goes on otherwise",
            wanted=wanted,
            used=wanted,
        )
    if wanted in PACKAGES or not any(word in wanted for word in _BITSANDBYTES_WORDS):
        return wanted
    obstacle = _find_obstacle_to_bitsandbytes()
    if obstacle is not None:
        used = "rmsprop" if "rmsprop" in wanted else "adamw_torch"
        _tell_replacement(
            events,
            f"optim={wanted!r} needs bitsandbytes, {obstacle}; {used!r} takes its place",
            wanted=wanted,
            used=used,
        )
        return used
    if wanted.startswith("paged_") and not torch.cuda.is_available():
        used = _WITHOUT_PAGES.get(wanted, wanted.removeprefix("paged_"))
        message = f"optim={wanted!r} runs as {used!r}: there is no GPU whose memory its pages would spare"
        _tell_replacement(events, message, wanted=wanted, used=used)
        return used
    return wanted


def find_state_classes(optimizer: str) -> list[Any]:
    """The classes, besides tensors, of the objects that the optimizer keeps in a checkpoint."""
    modules = next((names for start, names in _STATE_MODULES.items() if optimizer.startswith(start)), ())
    found = [vars(importlib.import_module(name)) for name in modules]
    return [
        value for names in found for value in names.values() if isinstance(value, type) and "Projector" in str(value)
    ]


def _check_can_run(optimizer: str) -> None:
    package = PACKAGES.get(optimizer)
    if package is not None and importlib.util.find_spec(package.module) is None:
        message = f"optim={optimizer!r} needs the package {package.module}, which is not installed; {package.install}"
        raise ConfigError([Problem(message, "optim", "missing_package")])
    if optimizer in NEEDS_CUDA and not torch.cuda.is_available():
        message = f"optim={optimizer!r} runs on a CUDA device only, and there is none; use 'adamw_8bit'"
        raise ConfigError([Problem(message, "optim", "invalid_value")])


def _find_obstacle_to_bitsandbytes() -> str | None:
    try:
        extension = importlib.import_module("bitsandbytes.cextension")
    except (ImportError, OSError, RuntimeError) as error:
        return f"which cannot be used here ({error})"
    has_cuda_library = getattr(extension.lib, "compiled_with_cuda", False)
    if torch.cuda.is_available() and torch.version.hip is None and not has_cuda_library:
        return "whose CUDA library does not load here"
    return None


def _tell_replacement(events: EventSink, message: str, *, wanted: str, used: str) -> None:
    data = {"param": "optim", "wanted": wanted, "used": used}
    events.emit("warning", level="warning", message=message, data=data)
