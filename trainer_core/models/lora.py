"""LoRA: what the Config asks of the adapter, and putting it onto a model."""

import re
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer_core.config import Config
from trainer_core.config.lora_checks import decomposes_base
from trainer_core.errors import ConfigError, Problem
from trainer_core.models.decomposed_model import attach_decomposed
from trainer_core.models.dtype import choose_dtype
from trainer_core.models.lora_targets import find_lora_targets, find_modules_to_save, find_target_parameters, is_named

_HEAD = "lm_head"
_DATA_DRIVEN_INITS = ("eva", "corda", "lora_ga", "mica")


def build_lora_config(model: PreTrainedModel, *, config: Config) -> LoraConfig:
    """The adapter that the Config asks for on this model. Raises ConfigError naming what exists for unknown targets."""
    saved, keeps_tying = _tie(model, find_modules_to_save(model, wanted=config.modules_to_save or []))
    targets = find_lora_targets(model, wanted=config.lora_target_modules, besides=saved)
    lora_config = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        target_parameters=find_target_parameters(model, wanted=config.lora_target_parameters or []) or None,
        modules_to_save=saved or None,
        use_dora=config.use_dora,
        use_rslora=config.use_rslora,
        # Conv1D (GPT-2) keeps its weight transposed; peft corrects this itself, but warns when it was not told.
        fan_in_fan_out=_targets_conv1d(model, targets),
        ensure_weight_tying=keeps_tying,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )
    # Set afterwards: what initial weights need is done here, and not as peft checks it.
    init: Any = config.init_lora_weights
    lora_config.init_lora_weights = init
    if init == "loftq":
        loftq: Any = {"loftq_bits": config.loftq_bits, "loftq_iter": config.loftq_iter}
        lora_config.loftq_config = loftq
    return lora_config


def attach_lora(
    model: PreTrainedModel, *, lora_config: LoraConfig, config: Config, resume_from: Path | None = None
) -> PeftModel:
    """Wraps the model: only the adapter's matrices are trained from here on. The model itself is changed.

    `resume_from` is the folder of the checkpoint that training will go on from: an adapter that was taken out of the
    base's weights is taken out of them as it was then.
    """
    if config.use_gradient_checkpointing:
        # The first checkpointed block would otherwise see inputs without gradients, and its adapters learn nothing.
        model.enable_input_require_grads()  # type: ignore[no-untyped-call]
    init = lora_config.init_lora_weights
    if init in _DATA_DRIVEN_INITS:
        message = f"init_lora_weights={init!r} looks at data before the training, which is not supported; use 'pissa'"
        raise ConfigError([Problem(message, "init_lora_weights", "invalid_value")])
    if decomposes_base(init):
        is_stabilized = config.stabilize and choose_dtype(config) is torch.bfloat16
        dtype = torch.bfloat16 if is_stabilized else torch.float32
        return attach_decomposed(model, lora_config=lora_config, resume_from=resume_from, adapter_dtype=dtype)
    if init != "orthogonal":
        return get_peft_model(model, lora_config)
    lora_config.init_lora_weights = True
    peft_model = get_peft_model(model, lora_config)
    set_orthogonal_weights(peft_model)
    return peft_model


def set_orthogonal_weights(model: nn.Module) -> None:
    """Gives every adapter two matrices that are not zero and whose product is, by rows of one orthogonal matrix."""
    for layer in (each for each in model.modules() if isinstance(each, LoraLayer)):
        for adapter in layer.lora_A:
            first, second = (part[adapter].get_parameter("weight") for part in (layer.lora_A, layer.lora_B))
            a_RI, b_OR = first.data, second.data
            rank = a_RI.shape[0]
            rows, _ = torch.linalg.qr(torch.randn(rank, rank))
            a_RI.copy_(rows[0::2].T @ torch.randn(rank // 2, a_RI.shape[1]) / 10)
            b_OR.copy_(torch.randn(b_OR.shape[0], rank // 2) @ rows[1::2] / 10)


def _tie(model: PreTrainedModel, saved: list[str]) -> tuple[list[str], bool]:
    """What peft is to save, and whether tied: where head and embeddings share a weight, training one whole trains
    both. peft ties from the head."""
    tied: Any = model.all_tied_weights_keys
    names = {key.removesuffix(".weight") for pair in tied.items() for key in pair}
    others = [each for each in saved if not any(is_named(name, each) for name in names)]
    if _HEAD in names and others != saved:
        return sorted([*others, _HEAD]), True
    return saved, False


def _targets_conv1d(model: PreTrainedModel, targets: list[str] | str) -> bool:
    def is_target(name: str) -> bool:
        if isinstance(targets, str):
            return re.fullmatch(targets, name) is not None
        return any(is_named(name, target) for target in targets)

    return any(isinstance(module, Conv1D) and is_target(name) for name, module in model.named_modules())
