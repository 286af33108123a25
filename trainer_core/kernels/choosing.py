"""Which of the faster ways a model takes, as far as it shows before the first step."""

from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from trainer_core.config import Config
from trainer_core.kernels.compiled_layers import find_compile_obstacle
from trainer_core.kernels.fused_loss import FusedLoss
from trainer_core.kernels.liger import find_liger_obstacle
from trainer_core.kernels.lora_linear import find_lora_layers, is_plain
from trainer_core.padding_free.attention import RowAttention
from trainer_core.padding_free.model_check import build_probe_row, build_probe_samples, get_base

__all__ = [
    "choose_compilation",
    "compare_losses",
    "find_autocast_obstacle",
    "find_lean_obstacle",
    "find_liger_obstacle",
    "prefers_tiles",
]

_LONG_ROW = 32_768
"""Tokens of a row from which on memory goes before compiled layers, which hold more of it."""
_SIXTEEN_BITS = (torch.bfloat16, torch.float16)
_MIN_STEPS = 100
"""Compiling takes 10 to 30 s: as long as so many steps of a model that is worth it."""
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 0.02, torch.float16: 0.02}
"""Largest difference of two ways' mean loss, in nats."""


def choose_compilation(config: Config, *, model: Any, arguments: TrainingArguments, is_tiled: bool) -> str | None:
    """Why the layers are not compiled; None: they are. `is_tiled`: their MLPs are to go tile by tile."""
    if config.torch_compile == "off":
        return "torch_compile is 'off'"
    if obstacle := find_compile_obstacle():
        return obstacle
    if config.torch_compile == "on":
        return None
    if config.load_in_8bit:
        return "layers in 8 bits cannot be compiled"
    if config.tokens_per_batch is None:
        return "rows of a count of samples have too many different lengths; set tokens_per_batch"
    if is_tiled:
        return "MLPs are computed tile by tile"
    if config.use_liger_kernel == "on":
        return "use_liger_kernel is 'on'"
    if _is_faster_with_liger(config, model=model, arguments=arguments):
        return "LoRA on 16-bit weights is as fast with Liger's kernels, from the first step on"
    if 0 < arguments.max_steps < _MIN_STEPS:
        return f"{arguments.max_steps} steps are over before it pays"
    return None


def prefers_tiles(config: Config) -> bool:
    """Whether MLPs that can go tile by tile do so rather than be compiled."""
    is_long = config.tokens_per_batch is not None and config.tokens_per_batch >= _LONG_ROW
    return config.tiled_mlp == "on" or (is_long and config.offload_activations and not config.fp8_base)


def _is_faster_with_liger(config: Config, *, model: Any, arguments: TrainingArguments) -> bool:
    """What was measured both ways: LoRA without dropout on 16-bit weights that keeps all activations, on one GPU.

    Ranks wait for the slowest one's Python, of which compiled layers have less.
    """
    if arguments.world_size > 1 or config.use_liger_kernel == "off" or find_liger_obstacle(get_base(model)):
        return False
    if config.use_gradient_checkpointing or config.activation_memory_budget_gib is not None or config.fp8_base:
        return False
    layers = find_lora_layers(model)
    is_plain_lora = bool(layers) and all(is_plain(layer) for layer in layers)
    has_dropout = any(not isinstance(each, nn.Identity) for layer in layers for each in layer.lora_dropout.values())
    weights = [getattr(layer.get_base_layer(), "weight", None) for layer in layers]
    if not is_plain_lora or has_dropout:
        return False
    return all(weight is not None and weight.dtype in _SIXTEEN_BITS for weight in weights)


@torch.no_grad()
def compare_losses(model: Any, *, device: torch.device, is_in_head: bool = False) -> str | None:
    """What is wrong when the fused loss of a short row is another than the model's own; None: nothing.

    The model is left as it is.
    """
    base = get_base(model)
    row = build_probe_row(build_probe_samples(base.config)).to(device)
    was_training = model.training
    fused_loss = FusedLoss(base, is_in_head=is_in_head)
    model.train(False)
    try:
        with RowAttention(base).active():
            plain = model(**row.inputs).loss.float()
            with fused_loss.over(row.target_index_K, row.target_ids_K):
                fused = model(**row.inputs).loss.float()
    finally:
        model.train(was_training)
        fused_loss.detach()
    difference = float((plain - fused).abs())
    tolerance = _TOLERANCES.get(base.dtype, _TOLERANCES[torch.float32])
    return None if difference <= tolerance else f"the loss differs by {difference:.2g} from the model's own"


def find_lean_obstacle(model: Any) -> str | None:
    """Why no layer's adapter can be computed leanly; None: at least one can."""
    if not any(is_plain(layer) for layer in find_lora_layers(model)):
        return "no adapter is a plain one on a linear layer"
    return None


def find_autocast_obstacle(model: Any) -> str | None:
    """Why a model of mixed formats needs autocast; None: all of it is in 16 bits but for adapters that are cast."""
    cast = {
        id(parameter)
        for layer in find_lora_layers(model)
        if is_plain(layer) and "forward" in vars(layer)
        for parameter in (*layer.lora_A.parameters(), *layer.lora_B.parameters())
    }
    for name, parameter in model.named_parameters():
        if parameter.dtype == torch.float32 and id(parameter) not in cast:
            return f"{name} is in fp32"
    return None
