"""What bitsandbytes is told when the base is loaded in 4 or 8 bits."""

import importlib.util

import torch
from transformers import BitsAndBytesConfig

from trainer_core.config import Config
from trainer_core.errors import ModelLoadError
from trainer_core.models.dtype import choose_dtype
from trainer_core.models.library_habits import tell_casts_once


def build_quantization_config(config: Config) -> BitsAndBytesConfig | None:
    """None when the Config asks for no quantized base. Raises ModelLoadError without bitsandbytes."""
    if not (config.load_in_4bit or config.load_in_8bit):
        return None
    param = "load_in_4bit" if config.load_in_4bit else "load_in_8bit"
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelLoadError(f"{param} needs the package bitsandbytes; install it, or set {param}=False", param=param)
    tell_casts_once()
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=config.load_in_4bit,
        load_in_8bit=config.load_in_8bit,
        llm_int8_threshold=config.llm_int8_threshold,
        llm_int8_has_fp16_weight=config.llm_int8_has_fp16_weight,
        bnb_4bit_compute_dtype=choose_dtype(config),
        bnb_4bit_use_double_quant=config.bnb_4bit_use_double_quant,
        bnb_4bit_quant_type=config.bnb_4bit_quant_type,
    )


def is_quantized(model: torch.nn.Module) -> bool:
    """Whether a loaded model, or the base below its adapter, holds quantized weights."""
    return bool(getattr(model, "is_quantized", False) or getattr(model, "quantization_method", None))
