"""LoRA: which layers get an adapter, and putting it there."""

import difflib
import re
from collections.abc import Iterable

from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer_core.config import Config
from trainer_core.errors import ConfigError, Problem

PARAM = "raw_lora_target_modules"
_ADAPTABLE = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d)


def build_lora_config(model: PreTrainedModel, *, config: Config) -> LoraConfig:
    """The adapter that the Config asks for on this model. Raises ConfigError naming what exists for unknown targets."""
    targets = find_lora_targets(model, wanted=config.lora_target_modules)
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        # Conv1D (GPT-2) keeps its weight transposed; peft corrects this itself, but warns when it was not told.
        fan_in_fan_out=_targets_conv1d(model, targets),
        bias="none",
        task_type=TaskType.CAUSAL_LM,
    )


def attach_lora(model: PreTrainedModel, *, lora_config: LoraConfig, config: Config) -> PeftModel:
    """Wraps the model: only the adapter's matrices are trained from here on. The model itself is changed."""
    if config.use_gradient_checkpointing:
        # The first checkpointed block would otherwise see inputs without gradients, and its adapters learn nothing.
        model.enable_input_require_grads()  # type: ignore[no-untyped-call]
    return get_peft_model(model, lora_config)


def find_lora_targets(model: PreTrainedModel, *, wanted: list[str] | str | None) -> list[str] | str:
    """What peft takes as `target_modules`: names, or a regular expression as it was given.

    `wanted` None means every linear layer but the head and the embeddings.
    """
    if wanted is None:
        return _find_all_linear(model)
    adaptable = {name for name, module in model.named_modules() if isinstance(module, _ADAPTABLE)}
    if isinstance(wanted, str):
        if not any(re.fullmatch(wanted, name) for name in adaptable):
            raise _unknown_targets([f"re:{wanted}"], adaptable)
        return wanted
    unknown = [target for target in wanted if not any(_is_named(name, target) for name in adaptable)]
    if unknown:
        raise _unknown_targets(unknown, adaptable)
    return wanted


def _find_all_linear(model: PreTrainedModel) -> list[str]:
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    output_embeddings = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    chosen = {name for name, module in linear.items() if module is not output_embeddings}
    if not chosen:
        message = f"{PARAM}: the model has no linear layer besides its head; name the layers"
        raise ConfigError([Problem(message, PARAM, "invalid_value")])
    leaves = {name.rsplit(".", 1)[-1] for name in chosen}
    # Short names make an adapter_config.json that people can read, as long as they name nothing else.
    named_by_leaves = {name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in leaves}
    return sorted(leaves if named_by_leaves == chosen else chosen)


def _is_named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _targets_conv1d(model: PreTrainedModel, targets: list[str] | str) -> bool:
    def is_target(name: str) -> bool:
        if isinstance(targets, str):
            return re.fullmatch(targets, name) is not None
        return any(_is_named(name, target) for target in targets)

    return any(isinstance(module, Conv1D) and is_target(name) for name, module in model.named_modules())


def _unknown_targets(unknown: Iterable[str], adaptable: Iterable[str]) -> ConfigError:
    leaves = sorted({name.rsplit(".", 1)[-1] for name in adaptable})
    problems = []
    for target in unknown:
        nearest = difflib.get_close_matches(target, leaves, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        message = f"{PARAM}: the model has no layer {target!r}{hint} It has {', '.join(leaves)}"
        problems.append(Problem(message, PARAM, "unknown_module"))
    return ConfigError(problems)
