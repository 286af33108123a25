"""Which number format a model is loaded, trained and saved in."""

import torch

from trainer_core.config import Config


def choose_dtype(config: Config, *, use_cpu: bool = False) -> torch.dtype:
    """The format to load a model in: fp32 without CUDA or with `force_fp32`, else fp16 if forced, else bf16 where the
    GPU computes in it, else fp16."""
    if use_cpu or not torch.cuda.is_available() or config.force_fp32:
        return torch.float32
    if config.force_fp16 or not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def get_dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` for torch.bfloat16: the name that config.json and events use."""
    return str(dtype).removeprefix("torch.")
