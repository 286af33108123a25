"""Checks of a Config that look at more than one key, or at what has been built."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.config.optimizers import OPTIMIZERS, OPTIMIZERS_ELSEWHERE
from trainer_core.config.problems import ProblemsFound
from trainer_core.errors import Problem
from trainer_core.registry import describe_unknown_key

if TYPE_CHECKING:
    from trainer_core.config.fields import Config

FIXED: dict[str, tuple[object, str]] = {
    "save_safetensors": (True, "weights are always saved as safetensors; leave it at True"),
    "tokenizer_use_fast": (None, "every tokenizer is a fast one now; leave it at None"),
    "gptq_disable_exllama": (True, "ExLlama kernels belonged to auto-gptq, which no longer runs; leave it at True"),
}
"""Keys of which another value cannot work any more: the accepted value, and why."""

NOT_YET: dict[str, object] = {
    "from_gptq": False,
    "single_gpu": None,
    "master_port": 9994,
    "deepspeed_stage": 0,
    "deepspeed_config_path": None,
    "deepspeed_offload": "auto",
    "fsdp_strategy": "",
    "fsdp_offload": True,
    "fused_hub_model_id": None,
    "fused_hub_private_repo": True,
    "quantization_format": "compressed-tensors",
    "quantized_hub_model_id": None,
    "quantized_hub_private_repo": True,
    "tokens_per_batch": None,
    "push_to_hub_bos_add_bos_token": False,
    "bnb_quantize_after_model_init": False,
    "push_to_hub": False,
    "hub_model_id": None,
    "hub_private_repo": True,
    "project_name": None,
    "report_to_wandb": False,
    "wandb_api_key": None,
    "wandb_project": None,
    "wandb_entity": None,
    "run_name": None,
    "dampening_frac": 0.01,
    "actorder": "static",
    "smoothing_strength": 0.5,
    "chat_template": None,
    "lora_target_parameters": None,
    "modules_to_save": None,
    "use_dora": False,
    "use_rslora": False,
    "init_lora_weights": True,
    "loftq_bits": 4,
    "loftq_iter": 1,
    "loraplus_lr_ratio": None,
    "loraplus_lr_embedding": 1e-6,
    "optim_args": None,
    "optim_target_modules": None,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "lr_scheduler_type": "linear",
    "lr_scheduler_kwargs": None,
}
"""Keys whose work has not been built, with the only value that is accepted."""

TRACKERS = ("tensorboard",)


def raise_problems(config: "Config") -> None:
    """Raises ProblemsFound with everything that is wrong between the keys."""
    problems = [*_fixed(config), *_not_yet(config), *_conflicts(config), *_unknown_names(config)]
    if problems:
        raise ProblemsFound(problems)


def _fixed(config: "Config") -> Iterator[Problem]:
    for name, (accepted, reason) in FIXED.items():
        if getattr(config, name) != accepted:
            yield Problem(f"{name}: {reason}", name, "invalid_value")


def _not_yet(config: "Config") -> Iterator[Problem]:
    for name, accepted in NOT_YET.items():
        if getattr(config, name) != accepted:
            yield Problem(f"{name} is not supported yet; leave it at {accepted!r}", name, "not_yet_supported")
    if config.packing == "on":
        yield Problem("packing='on' is not supported yet; use 'auto' or 'off'", "packing", "not_yet_supported")
    if config.gptq_bits not in (4, 8):
        yield Problem(
            f"gptq_bits={config.gptq_bits} is not supported yet; use 4 or 8", "gptq_bits", "not_yet_supported"
        )
    for tracker in config.report_to:
        if tracker not in TRACKERS:
            message = f"report_to: {tracker!r} is not supported yet; known: {', '.join(TRACKERS)}"
            yield Problem(message, "report_to", "not_yet_supported")


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


def _unknown_names(config: "Config") -> Iterator[Problem]:
    if config.optim in OPTIMIZERS_ELSEWHERE:
        message = f"optim={config.optim!r} needs a package that is not installed; it is not supported yet"
        yield Problem(message, "optim", "not_yet_supported")
    elif config.optim is not None and config.optim not in OPTIMIZERS:
        message = describe_unknown_key(config.optim, known=list(OPTIMIZERS), where="the list of optimizers")
        yield Problem(message, "optim", "invalid_value")
