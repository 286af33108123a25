"""Checks of what makes a training fast: which of it cannot go with which other key."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.config.parallel_checks import parse_fsdp_strategy, uses_deepspeed
from trainer_core.errors import Problem

if TYPE_CHECKING:
    from trainer_core.config.fields import Config


def find_speed_problems(config: "Config") -> Iterator[Problem]:
    """Yields what was asked for and cannot be had with the other keys."""
    yield from _find_row_problems(config)
    yield from _find_shard_problems(config)
    has_checkpoints = config.use_gradient_checkpointing or config.activation_memory_budget_gib is not None
    if config.offload_activations and not has_checkpoints:
        message = "offload_activations needs use_gradient_checkpointing=True or activation_memory_budget_gib"
        yield Problem(message, "offload_activations", "conflict")
    if config.fp8_base and (config.load_in_4bit or config.load_in_8bit or config.from_gptq or not config.apply_lora):
        message = "fp8_base is for the 16-bit weights below an adapter; set apply_lora, and no other quantization"
        yield Problem(message, "fp8_base", "conflict")
    if config.lean_lora == "on" and not config.apply_lora:
        yield Problem("lean_lora='on' is about an adapter; set apply_lora", "lean_lora", "conflict")
    if config.use_liger_kernel == "on" and config.torch_compile == "on":
        message = "use_liger_kernel='on' is for layers that are not compiled; leave torch_compile='on' out"
        yield Problem(message, "use_liger_kernel", "conflict")
    if config.tiled_mlp == "on" and config.torch_compile == "on":
        message = "tiled_mlp='on' is for layers that are not compiled; leave torch_compile='on' out"
        yield Problem(message, "tiled_mlp", "conflict")
    if config.fused_loss == "on" and config.label_smoothing_factor:
        message = "fused_loss='on' never holds all logits, which label_smoothing_factor looks at; leave one of them out"
        yield Problem(message, "fused_loss", "conflict")


def _find_row_problems(config: "Config") -> Iterator[Problem]:
    wanted = {
        "packing": config.packing == "on",
        "tokens_per_batch": config.tokens_per_batch is not None,
        "fused_loss": config.fused_loss == "on",
        "torch_compile": config.torch_compile == "on",
        "activation_memory_budget_gib": config.activation_memory_budget_gib is not None,
        "offload_activations": config.offload_activations,
        "tiled_mlp": config.tiled_mlp == "on",
    }
    if config.packing == "off":
        for param in (param for param, is_wanted in wanted.items() if is_wanted):
            message = f"{param} is for samples in rows, which packing='off' forbids; leave one of them out"
            yield Problem(message, param, "conflict")
    elif config.neftune_noise_alpha:
        for param in (param for param, is_wanted in wanted.items() if is_wanted):
            message = (
                f"{param} is for samples in rows, and the noise of neftune_noise_alpha depends on the length of a row; "
                "leave one of them out"
            )
            yield Problem(message, param, "conflict")


def _find_shard_problems(config: "Config") -> Iterator[Problem]:
    if not (uses_deepspeed(config) or _uses_fsdp(config)):
        return
    taken = {
        "fp8_base": config.fp8_base,
        "activation_memory_budget_gib": config.activation_memory_budget_gib is not None,
        "offload_activations": config.offload_activations,
        "tiled_mlp": config.tiled_mlp == "on",
    }
    for param in (param for param, is_wanted in taken.items() if is_wanted):
        message = f"{param} changes layers that DeepSpeed or FSDP takes over; leave one of them out"
        yield Problem(message, param, "conflict")


def _uses_fsdp(config: "Config") -> bool:
    try:
        return parse_fsdp_strategy(config.fsdp_strategy) is not None
    except ValueError:
        # A problem of its own.
        return False
