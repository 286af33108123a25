"""Which options of the adapter go together, and with which bases."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.errors import Problem

if TYPE_CHECKING:
    from trainer_core.config.fields import Config

DECOMPOSING_INITS = ("pissa", "olora", "loftq")
"""Beginnings of those `init_lora_weights` that move a part of the base's weights into the adapter."""

_ADAPTER_KEYS = {
    "use_dora": False,
    "use_rslora": False,
    "init_lora_weights": True,
    "modules_to_save": None,
    "lora_target_parameters": None,
}


def decomposes_base(init_lora_weights: object) -> bool:
    """Whether these initial weights are taken out of the base's own."""
    return isinstance(init_lora_weights, str) and init_lora_weights.startswith(DECOMPOSING_INITS)


def find_lora_problems(config: "Config") -> Iterator[Problem]:
    """What is wrong between the options of the adapter, and between them and the base."""
    yield from _without_an_adapter(config)
    yield from _initial_weights(config)
    yield from _target_parameters(config)
    if config.use_dora and config.from_gptq:
        message = "use_dora measures the base's weights, which from_gptq leaves packed; set use_dora=False"
        yield Problem(message, "use_dora", "conflict")
    if config.use_dora and config.load_in_8bit:
        message = "use_dora measures the base's weights, which bitsandbytes cannot give back in training from 8 bits; "
        yield Problem(message + "use load_in_4bit, or set use_dora=False", "use_dora", "conflict")
    if config.bnb_quantize_after_model_init and not (config.load_in_4bit or config.load_in_8bit):
        message = "bnb_quantize_after_model_init says when to quantize; say to what: set load_in_4bit or load_in_8bit"
        yield Problem(message, "bnb_quantize_after_model_init", "conflict")


def _without_an_adapter(config: "Config") -> Iterator[Problem]:
    for name, default in _ADAPTER_KEYS.items():
        if not config.apply_lora and getattr(config, name) != default:
            yield Problem(f"{name} is about the adapter; set apply_lora=True, or leave it out", name, "conflict")


def _initial_weights(config: "Config") -> Iterator[Problem]:
    name, init = "init_lora_weights", config.init_lora_weights
    if init == "orthogonal" and config.lora_rank % 2:
        message = f"init_lora_weights='orthogonal' needs an even lora_rank, not {config.lora_rank}"
        yield Problem(message, "lora_rank", "invalid_value")
    if init != "loftq":
        for key, default in (("loftq_bits", 4), ("loftq_iter", 1)):
            if getattr(config, key) != default:
                yield Problem(f"{key} belongs to init_lora_weights='loftq'; set that, or leave it out", key, "conflict")
    if not decomposes_base(init):
        return
    quantized = [key for key in ("load_in_4bit", "load_in_8bit", "from_gptq") if getattr(config, key)]
    for key in quantized:
        message = (
            f"init_lora_weights={init!r} takes a part of the base's weights into the adapter, which {key} has rounded "
            f"already; leave {key} out, or use 'gaussian' or 'orthogonal'"
        )
        yield Problem(message, name, "conflict")
    if config.deepspeed_stage == 3:
        message = (
            f"init_lora_weights={init!r} needs each layer's whole weight, which deepspeed_stage=3 has split; use stage "
            "2, or another init_lora_weights"
        )
        yield Problem(message, name, "conflict")


def _target_parameters(config: "Config") -> Iterator[Problem]:
    if config.lora_target_parameters is None:
        return
    why = "lora_target_parameters puts the adapter on weights without a layer of their own, which"
    if config.lora_dropout:
        yield Problem(f"{why} have no dropout; set lora_dropout=0", "lora_dropout", "conflict")
    if config.use_dora:
        yield Problem(f"{why} use_dora cannot measure; set use_dora=False", "use_dora", "conflict")
    if config.init_lora_weights not in (True, False, "gaussian"):
        message = f"{why} take init_lora_weights True, False or 'gaussian' only"
        yield Problem(message, "init_lora_weights", "conflict")
