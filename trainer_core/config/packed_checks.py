"""What goes with a base that is quantized already (`from_gptq`)."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.errors import Problem

if TYPE_CHECKING:
    from trainer_core.config.fields import Config

_OTHER_QUANTIZATIONS = ("load_in_4bit", "load_in_8bit", "bnb_quantize_after_model_init")


def find_packed_problems(config: "Config") -> Iterator[Problem]:
    """What is wrong between `from_gptq` and other keys."""
    if not config.from_gptq:
        return
    if not config.apply_lora:
        message = "from_gptq: packed integers cannot be trained, an adapter over them can; set apply_lora=True"
        yield Problem(message, "apply_lora", "conflict")
    for name in _OTHER_QUANTIZATIONS:
        if getattr(config, name):
            message = f"{name} quantizes a base, and that of from_gptq is quantized already; leave {name} out"
            yield Problem(message, name, "conflict")
    if config.lora_target_parameters is not None:
        message = "lora_target_parameters adds to the base's weights, which from_gptq leaves packed; name layers"
        yield Problem(message, "lora_target_parameters", "conflict")
    if config.deepspeed_stage == 3:
        message = "deepspeed_stage=3 splits each weight between the GPUs, which packed ones cannot be; use stage 2"
        yield Problem(message, "deepspeed_stage", "conflict")
    if config.fsdp_strategy:
        message = "fsdp_strategy splits each weight between the GPUs, which packed ones cannot be; leave it out"
        yield Problem(message, "fsdp_strategy", "conflict")
