"""Keeping the parts of a model in the number formats in which training is stable."""

import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from trainer_core.config import Config

_SIXTEEN_BIT_PARTS = ("lm_head", "embed_tokens", "wte", "wpe")


def stabilize(model: nn.Module, *, config: Config, has_bf16: bool) -> None:
    """Casts, in place: LoRA matrices (both) to bf16, norms to fp32, a head and embeddings in fp32 to bf16.

    `has_bf16` says whether the model is trained on a device that computes in bf16; without it only the norms are cast.
    `norm_fp32=False` leaves the norms alone.
    """
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            if has_bf16:
                _cast_adapter(module)
        elif _is_norm(name):
            if config.norm_fp32 is not False:
                module.to(torch.float32)
        elif has_bf16 and any(part in name for part in _SIXTEEN_BIT_PARTS):
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.dtype == torch.float32:
                module.to(torch.bfloat16)


def _is_norm(name: str) -> bool:
    leaf = name.rsplit(".", 1)[-1].lower()
    return "norm" in leaf or leaf.startswith("ln_")


def _cast_adapter(layer: LoraLayer) -> None:
    for part in (layer.lora_A, layer.lora_B):
        part.to(torch.bfloat16)
    for matrices in (layer.lora_embedding_A, layer.lora_embedding_B):
        for matrix in matrices.values():
            matrix.data = matrix.data.to(torch.bfloat16)


def upcast_trainable_parameters(model: nn.Module) -> int:
    """Casts trainable fp16 parameters to fp32, in place, and returns how many numbers that were.

    fp16 mixed precision unscales gradients, which torch does for fp32 gradients only; bf16 needs no scaling.
    """
    num_cast = 0
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype == torch.float16:
            parameter.data = parameter.data.to(torch.float32)
            num_cast += parameter.numel()
    return num_cast
