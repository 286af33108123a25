"""Whether this machine has where `device_map` wants a model's layers."""

import re

import torch

from trainer_core.config import Config
from trainer_core.errors import ConfigError, Problem

SPREADS = ("auto", "balanced", "balanced_low_0", "sequential")


def check_device_map(config: Config) -> None:
    """Raises ConfigError for a name that is no device, and for a GPU that is not here."""
    name = config.device_map
    if name is None or name in SPREADS or name == "cpu":
        return
    if (found := re.fullmatch(r"cuda(?::(\d+))?", name)) is None:
        message = f"device_map: {name!r} is none of {', '.join(SPREADS)}, cpu, cuda and cuda:<number>"
        raise ConfigError([Problem(message, "device_map", "invalid_value")])
    if int(found[1] or 0) >= torch.cuda.device_count():
        message = (
            f"device_map: {name!r} is not here: this process sees {torch.cuda.device_count()} GPUs; use auto or None"
        )
        raise ConfigError([Problem(message, "device_map", "invalid_value")])
