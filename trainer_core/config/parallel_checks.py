"""What is wrong between the keys about training in several processes, and what FSDP's spellings mean."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer_core.config.optimizers import is_low_rank
from trainer_core.errors import Problem
from trainer_core.registry import describe_unknown_key

if TYPE_CHECKING:
    from trainer_core.config.fields import Config

_SHARDED_ALWAYS = ("full_shard", "hybrid_shard")
_SHARDED_AFTER_BACKWARD = ("shard_grad_op", "hybrid_shard_zero2")
_REPLICATED = "no_shard"
_MODIFIERS = ("auto_wrap", "offload")
FSDP_WORDS = (*_SHARDED_ALWAYS, *_SHARDED_AFTER_BACKWARD, *_MODIFIERS)

_QUANTIZED = ("load_in_4bit", "load_in_8bit")


@dataclass(frozen=True, slots=True)
class FsdpStrategy:
    """What the words of `fsdp_strategy` come to on one host."""

    reshards_after_forward: bool
    """Whether a layer's weights are given up after the forward pass and gathered anew for the backward pass."""
    offloads: bool
    """Whether `offload` stands among the words."""


def parse_fsdp_strategy(text: str) -> FsdpStrategy | None:
    """Reads words separated by spaces or commas; None for no FSDP. Raises ValueError for what cannot be meant.

    The hybrid strategies shard within a host and copy between hosts: on one host they are the plain ones. Layers are
    wrapped one by one whether `auto_wrap` is given or not.
    """
    words = text.replace(",", " ").lower().split()
    if not words or words in (["none"], ["false"]):
        return None
    if _REPLICATED in words:
        raise ValueError("no_shard is training with whole copies, which several processes do without FSDP; leave it ''")
    for word in words:
        if word not in FSDP_WORDS:
            raise ValueError(describe_unknown_key(word, known=list(FSDP_WORDS), where="the words of FSDP"))
    always = any(word in _SHARDED_ALWAYS for word in words)
    after_backward = any(word in _SHARDED_AFTER_BACKWARD for word in words)
    if always and after_backward:
        raise ValueError("it names two strategies; keep one of them")
    if not (always or after_backward):
        raise ValueError("it names no strategy; add full_shard or shard_grad_op")
    return FsdpStrategy(reshards_after_forward=always, offloads="offload" in words)


def uses_deepspeed(config: "Config") -> bool:
    """Whether DeepSpeed trains."""
    return config.deepspeed_stage > 0 or config.deepspeed_config_path is not None


def find_parallel_problems(config: "Config") -> Iterator[Problem]:
    """Yields what cannot work together."""
    yield from _fsdp_problems(config)
    if config.single_gpu and not uses_deepspeed(config):
        message = "single_gpu starts DeepSpeed without its launcher, but DeepSpeed is off; set deepspeed_stage"
        yield Problem(message, "single_gpu", "conflict")
    quantized = next((name for name in _QUANTIZED if getattr(config, name)), None)
    if quantized and config.deepspeed_stage == 3 and config.deepspeed_config_path is None:
        yield describe_quantized_stage_3(quantized, param="deepspeed_stage")
    if config.device_map is not None and (uses_deepspeed(config) or config.fsdp_strategy):
        message = "device_map places layers, and so do DeepSpeed and FSDP; leave it at None"
        yield Problem(message, "device_map", "conflict")
    if is_low_rank(config.optim or "") and (uses_deepspeed(config) or config.fsdp_strategy):
        message = (
            f"optim={config.optim!r} projects the gradient of each matrix, which DeepSpeed and FSDP cut into shards; "
            "use another optimizer, or several processes without them"
        )
        yield Problem(message, "optim", "conflict")


def describe_quantized_stage_3(quantized: str, *, param: str) -> Problem:
    """The problem of ZeRO stage 3 over a base in 4 or 8 bits."""
    message = (
        f"{param}: stage 3 cuts every weight into shards, and a weight that bitsandbytes has packed ({quantized}) "
        "cannot be used from a shard; use deepspeed_stage 2, which shards what is trained"
    )
    return Problem(message, param, "conflict")


def find_parallel_warnings(config: "Config") -> Iterator[Problem]:
    """Yields what works but is hardly meant."""
    if config.deepspeed_config_path is not None and config.deepspeed_stage > 0:
        message = "deepspeed_config_path wins: deepspeed_stage has no effect beside it"
        yield Problem(message, "deepspeed_stage", "no_effect")
    if config.deepspeed_offload != "auto" and (config.deepspeed_config_path is not None or not uses_deepspeed(config)):
        message = "deepspeed_offload is about the built-in settings of deepspeed_stage; it has no effect here"
        yield Problem(message, "deepspeed_offload", "no_effect")
    if config.deepspeed_offload == "all" and config.deepspeed_stage in (1, 2):
        message = (
            f"deepspeed_offload='all' moves weights too, which stage {config.deepspeed_stage} keeps whole on the "
            "device: only the optimizer's state is moved; use deepspeed_stage 3 for both"
        )
        yield Problem(message, "deepspeed_offload", "no_effect")


def _fsdp_problems(config: "Config") -> Iterator[Problem]:
    try:
        strategy = parse_fsdp_strategy(config.fsdp_strategy)
    except ValueError as error:
        yield Problem(f"fsdp_strategy={config.fsdp_strategy!r}: {error}", "fsdp_strategy", "invalid_value")
        return
    if strategy is None:
        return
    if uses_deepspeed(config):
        message = "fsdp_strategy and DeepSpeed exclude each other; leave out one of them"
        yield Problem(message, "fsdp_strategy", "conflict")
    quantized = next((name for name in _QUANTIZED if getattr(config, name)), None)
    if quantized:
        message = (
            f"fsdp_strategy cuts every weight into shards, and a weight that bitsandbytes has packed ({quantized}) "
            "cannot be used from a shard; use deepspeed_stage 2, or several processes without fsdp_strategy"
        )
        yield Problem(message, "fsdp_strategy", "conflict")
    if config.force_fp16:
        message = "fsdp_strategy trains in bf16 or fp32; leave out force_fp16, or use deepspeed_stage"
        yield Problem(message, "fsdp_strategy", "conflict")
