"""Checks of the keys about optimizer, learning rate and LoRA+."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer_core.config.optimizers import (
    OPTIMIZERS,
    OPTIONS,
    REFUSED,
    is_fused_into_backward,
    is_low_rank,
    list_ignored_keys,
    takes_parameter_groups,
)
from trainer_core.config.options import find_option_problems
from trainer_core.config.schedulers import SCHEDULERS, WITHOUT_WARMUP
from trainer_core.errors import Problem
from trainer_core.registry import describe_unknown_key

if TYPE_CHECKING:
    from trainer_core.config.fields import Config

DEFAULT_OPTIMIZER = "adamw_torch"
"""transformers' choice when `optim` is None."""

_DEFAULTS = {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "weight_decay": 0.001, "max_grad_norm": 1.0}
_LOWEST_GREEDY, _HIGHEST_GREEDY = 1e-3, 1.0
_LOWEST_POLYNOMIAL = 1e-7


def find_training_problems(config: "Config") -> list[Problem]:
    """What is wrong with the keys about the optimizer and the learning rate."""
    return [*_find_optimizer_problems(config), *_find_loraplus_problems(config), *_find_scheduler_problems(config)]


def find_training_warnings(config: "Config") -> Iterator[Problem]:
    """Keys that were set and that the chosen optimizer or scheduler has no use for."""
    optimizer = config.optim or DEFAULT_OPTIMIZER
    for key in list_ignored_keys(optimizer):
        if getattr(config, key) != _DEFAULTS[key]:
            yield Problem(f"{key} has no effect with optim={optimizer!r}, which does not use it", key, "no_effect")
    if config.lr_scheduler_type in WITHOUT_WARMUP and config.warmup_steps not in (0, 1_000):
        message = f"warmup_steps has no effect with lr_scheduler_type={config.lr_scheduler_type!r}"
        yield Problem(f"{message}, which starts at the full learning rate", "warmup_steps", "no_effect")


def split_optim_args(text: str | None) -> dict[str, str]:
    """`name=value` pairs separated by commas. Raises ValueError for what is none."""
    pairs: dict[str, str] = {}
    for part in (text or "").replace(" ", "").split(","):
        if not part:
            continue
        name, equals, value = part.partition("=")
        if not (name and equals and value) or "=" in value:
            raise ValueError(f"{part!r} is not of the form name=value")
        pairs[name] = value
    return pairs


def _find_optimizer_problems(config: "Config") -> Iterator[Problem]:
    optimizer = config.optim or DEFAULT_OPTIMIZER
    if optimizer in REFUSED:
        yield Problem(f"optim={optimizer!r} {REFUSED[optimizer]}", "optim", "invalid_value")
        return
    if optimizer not in OPTIMIZERS:
        message = describe_unknown_key(optimizer, known=list(OPTIMIZERS), where="the list of optimizers")
        yield Problem(f"optim: {message}", "optim", "invalid_value")
        return
    try:
        given = split_optim_args(config.optim_args)
    except ValueError as error:
        yield Problem(f"optim_args: {error}; write momentum=0.9,nesterov=True", "optim_args", "invalid_value")
    else:
        known = OPTIONS.get(optimizer, {})
        yield from find_option_problems(given, known, param="optim_args", owner=f"optim={optimizer!r}")
        zero = ("0", "0.0")
        is_plain = given.get("momentum", "0") not in zero and given.get("dampening", "0") in zero
        if given.get("nesterov", "").lower() == "true" and not is_plain:
            message = "optim_args: nesterov needs a momentum and no dampening; write momentum=0.9,nesterov=True"
            yield Problem(message, "optim_args", "invalid_value")
    if config.optim_target_modules is not None and not is_low_rank(optimizer):
        message = f"optim_target_modules is of GaLore and APOLLO; optim={optimizer!r} projects nothing: leave it out"
        yield Problem(message, "optim_target_modules", "conflict")
    if is_fused_into_backward(optimizer) and config.gradient_accumulation_steps > 1:
        message = (
            f"optim={optimizer!r} updates within the backward pass and cannot accumulate gradients; "
            "set gradient_accumulation_steps=1, or choose another optimizer"
        )
        yield Problem(message, "gradient_accumulation_steps", "conflict")


def _find_loraplus_problems(config: "Config") -> Iterator[Problem]:
    if config.loraplus_lr_ratio is None:
        if config.loraplus_lr_embedding != 1e-6:
            message = "loraplus_lr_embedding has an effect with loraplus_lr_ratio only; set that too"
            yield Problem(message, "loraplus_lr_embedding", "conflict")
        return
    if not config.apply_lora:
        message = "loraplus_lr_ratio sets the learning rates of a LoRA adapter, but apply_lora is False; set it to True"
        yield Problem(message, "loraplus_lr_ratio", "conflict")
    if not takes_parameter_groups(config.optim or DEFAULT_OPTIMIZER):
        message = (
            f"loraplus_lr_ratio needs groups of parameters, which optim={config.optim!r} makes itself; "
            "choose another optimizer, such as 'adamw_torch'"
        )
        yield Problem(message, "loraplus_lr_ratio", "conflict")


def _find_scheduler_problems(config: "Config") -> Iterator[Problem]:
    name = config.lr_scheduler_type
    if name not in SCHEDULERS:
        message = describe_unknown_key(name, known=sorted(SCHEDULERS), where="the list of schedulers")
        yield Problem(f"lr_scheduler_type: {message}", "lr_scheduler_type", "invalid_value")
        return
    given = config.lr_scheduler_kwargs or {}
    owner = f"lr_scheduler_type={name!r}"
    problems = list(find_option_problems(given, SCHEDULERS[name], param="lr_scheduler_kwargs", owner=owner))
    yield from problems or _find_values_that_do_not_fit(config, name)


def _find_values_that_do_not_fit(config: "Config", name: str) -> Iterator[Problem]:
    """Options that are known and right each for itself, but not together, or not with the Config."""
    given = config.lr_scheduler_kwargs or {}
    message = None
    if name == "warmup_stable_decay":
        message = _describe_decay_problem(config)
    elif name in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        if ("min_lr" in given) == ("min_lr_rate" in given):
            message = f"lr_scheduler_type={name!r} needs either min_lr or min_lr_rate, as {{'min_lr_rate': 0.1}}"
    elif name == "polynomial":
        lowest = _number(given.get("lr_end", _LOWEST_POLYNOMIAL))
        if not lowest < config.learning_rate:
            message = f"lr_end={lowest} must be less than learning_rate={config.learning_rate}"
    elif name == "greedy":
        lowest = _number(given.get("min_lr", _LOWEST_GREEDY))
        highest = _number(given.get("max_lr", _HIGHEST_GREEDY))
        if not lowest <= config.learning_rate <= highest:
            message = (
                f"lr_scheduler_type='greedy' keeps the learning rate between min_lr={lowest} and max_lr={highest}, and "
                f"learning_rate={config.learning_rate} is outside; set them, as {{'min_lr': 1e-6, 'max_lr': 1e-3}}"
            )
    if message is None and name in ("greedy", "reduce_lr_on_plateau") and not 0 < _number(given.get("factor", 0.5)) < 1:
        message = "factor must be between 0 and 1"
    if message is not None:
        yield Problem(f"lr_scheduler_kwargs: {message}", "lr_scheduler_kwargs", "invalid_value")


def _describe_decay_problem(config: "Config") -> str | None:
    given = config.lr_scheduler_kwargs or {}
    if "num_decay_steps" not in given:
        return "lr_scheduler_type='warmup_stable_decay' needs num_decay_steps, as {'num_decay_steps': 100}"
    num_steps = config.warmup_steps + _number(given["num_decay_steps"])
    if config.max_steps is not None and "num_stable_steps" not in given and num_steps > config.max_steps:
        return (
            f"warmup_steps={config.warmup_steps} and num_decay_steps={given['num_decay_steps']} are more than "
            f"max_steps={config.max_steps}"
        )
    return None


def _number(value: object) -> float:
    return float(str(value))
