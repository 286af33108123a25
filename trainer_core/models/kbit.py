"""Making a quantized base ready for training an adapter on it."""

import torch
from peft import prepare_model_for_kbit_training
from transformers import PreTrainedModel

from trainer_core.config import Config
from trainer_core.models.dtype import choose_dtype
from trainer_core.models.packed.preparing import upcast_unpacked_parameters
from trainer_core.models.quantization import is_quantized

CHECKPOINTING_OPTIONS = {"use_reentrant": False}
"""Reentrant checkpointing needs inputs that want gradients, which a frozen base does not give."""


def prepare_for_kbit_training(model: PreTrainedModel, *, config: Config) -> PreTrainedModel:
    """Freezes a quantized base and upcasts what stays unquantized to fp32; any other model comes back as it is.

    A base in 4 bits that computes in bf16 is frozen only: norms compute in fp32 whatever they are kept in, and frozen
    weights are no more exact in fp32 than they were. Autocast, and twice the memory for what lies between the layers,
    would be the price.
    """
    if not (config.need_to_prepare_model_for_kbit_training and is_quantized(model)):
        return model
    if keeps_16_bits(config):
        model.requires_grad_(False)
        return model
    upcast_unpacked_parameters(model)
    return prepare_model_for_kbit_training(  # type: ignore[no-untyped-call, no-any-return]
        model,
        use_gradient_checkpointing=config.use_gradient_checkpointing,
        gradient_checkpointing_kwargs=dict(CHECKPOINTING_OPTIONS),
    )


def keeps_16_bits(config: Config) -> bool:
    """Whether the parts of a quantized base that are not quantized stay in bf16."""
    is_plain = config.load_in_4bit and not config.from_gptq and not config.stabilize
    return is_plain and config.autocast == "auto" and choose_dtype(config) is torch.bfloat16
