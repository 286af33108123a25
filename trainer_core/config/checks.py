"""Checks of a Config that look at more than one key, or at what has been built."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.config.hub_checks import find_hub_problems
from trainer_core.config.lora_checks import find_lora_problems
from trainer_core.config.packed_checks import find_packed_problems
from trainer_core.config.parallel_checks import find_parallel_problems
from trainer_core.config.problems import ProblemsFound
from trainer_core.config.quantizer_checks import find_quantizer_problems
from trainer_core.config.speed_checks import find_speed_problems
from trainer_core.config.template_checks import find_template_problems
from trainer_core.config.tracking_checks import find_tracking_problems
from trainer_core.config.training_checks import find_training_problems
from trainer_core.errors import Problem

if TYPE_CHECKING:
    from trainer_core.config.fields import Config

FIXED: dict[str, tuple[object, str]] = {
    "save_safetensors": (True, "weights are always saved as safetensors; leave it at True"),
    "tokenizer_use_fast": (None, "every tokenizer is a fast one now; leave it at None"),
    "gptq_disable_exllama": (True, "ExLlama kernels belonged to auto-gptq, which no longer runs; leave it at True"),
}
"""Keys of which another value cannot work any more: the accepted value, and why."""


def raise_problems(config: "Config") -> None:
    """Raises ProblemsFound with everything that is wrong between the keys."""
    finders = (
        _fixed,
        _conflicts,
        find_quantizer_problems,
        find_training_problems,
        find_tracking_problems,
        find_template_problems,
        find_lora_problems,
        find_packed_problems,
        find_hub_problems,
        find_parallel_problems,
        find_speed_problems,
    )
    problems = [problem for find in finders for problem in find(config)]
    if problems:
        raise ProblemsFound(problems)


def _fixed(config: "Config") -> Iterator[Problem]:
    for name, (accepted, reason) in FIXED.items():
        if getattr(config, name) != accepted:
            yield Problem(f"{name}: {reason}", name, "invalid_value")


def _conflicts(config: "Config") -> Iterator[Problem]:
    if config.load_in_4bit and config.load_in_8bit:
        yield Problem("load_in_4bit and load_in_8bit exclude each other; set one", "load_in_4bit", "conflict")
    if config.force_fp32 and config.force_fp16:
        yield Problem("force_fp32 and force_fp16 exclude each other; set one", "force_fp32", "conflict")
    if config.fuse_after_training and not config.apply_lora:
        message = "fuse_after_training fuses a LoRA adapter, but apply_lora is False; set apply_lora=True"
        yield Problem(message, "fuse_after_training", "conflict")
    if config.gptq_group_size == 0:
        message = "gptq_group_size is a number of weights, or -1 for one scale a row; 0 is neither"
        yield Problem(message, "gptq_group_size", "invalid_value")
