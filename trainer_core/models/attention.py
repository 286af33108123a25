"""Which attention a model is loaded with, and whether it can run here."""

import importlib.util

import torch

from trainer_core.config import Config
from trainer_core.errors import ConfigError, Problem


def choose_attention(config: Config) -> str | None:
    """transformers' name of the implementation; None leaves the choice to the model."""
    return "flash_attention_2" if config.use_flash_attention_2 else None


def check_flash_attention(config: Config) -> None:
    """Raises ConfigError when `use_flash_attention_2` is set where it cannot run; called before a model is loaded."""
    if not config.use_flash_attention_2:
        return
    param = "use_flash_attention_2"
    if not torch.cuda.is_available():
        raise ConfigError(
            [Problem(f"{param} needs a CUDA device, and there is none; set it to False", param, "no_gpu")]
        )
    if config.force_fp32:
        message = f"{param} computes in 16 bits only; leave out force_fp32 or set {param}=False"
        raise ConfigError([Problem(message, param, "conflict")])
    if importlib.util.find_spec("flash_attn") is None:
        message = f"{param} needs the package flash-attn; install it, or set {param}=False"
        raise ConfigError([Problem(message, param, "missing_package")])
