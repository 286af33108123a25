"""Which layers and parameters of a model get an adapter or are trained whole, by the names that users give."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer_core.errors import ConfigError, Problem

PARAM = "raw_lora_target_modules"
_ADAPTABLE = (nn.Linear, Conv1D, nn.Embedding, nn.Conv1d, nn.Conv2d)


def find_lora_targets(
    model: PreTrainedModel, *, wanted: list[str] | str | None, besides: Sequence[str] = ()
) -> list[str] | str:
    """What peft takes as `target_modules`: names, or a regular expression as it was given.

    A pattern that matches more than layers becomes the names of those layers. `wanted` None means every linear layer
    but the head, the embeddings and the modules `besides`, which are trained whole.
    """
    if wanted is None:
        return _find_all_linear(model, besides=besides)
    adaptable = {name for name, module in model.named_modules() if isinstance(module, _ADAPTABLE)}
    if isinstance(wanted, str):
        matched = {name for name, _ in model.named_modules() if re.fullmatch(wanted, name)}
        if not matched & adaptable:
            raise _unknown_targets([f"re:{wanted}"], adaptable)
        # peft refuses a pattern that matches what holds the layers too.
        return wanted if matched <= adaptable else sorted(matched & adaptable)
    for target in wanted:
        if target in besides:
            message = f"{target} is in {PARAM} and in modules_to_save; leave it out of one of them"
            raise ConfigError([Problem(message, "modules_to_save", "conflict")])
    unknown = [target for target in wanted if not any(is_named(name, target) for name in adaptable)]
    if unknown:
        raise _unknown_targets(unknown, adaptable)
    return wanted


def find_modules_to_save(model: PreTrainedModel, *, wanted: Sequence[str]) -> list[str]:
    """What peft takes as `modules_to_save`: names that match whole parts of paths, where peft matches any ending.

    Raises ConfigError for a name that no module has, or of a module that cannot be trained.
    """
    modules = dict(model.named_modules())
    chosen: set[str] = set()
    for target in wanted:
        found = [name for name in modules if name and is_named(name, target)]
        if not found:
            with_weights = (name for name, module in modules.items() if name and module._parameters)
            raise _unknown_targets([target], with_weights, param="modules_to_save")
        for name in found:
            parameters = list(modules[name].parameters())
            if not parameters or not all(parameter.is_floating_point() for parameter in parameters):
                reason = "is quantized" if parameters else "has no weights"
                message = f"modules_to_save: {name} {reason}, and cannot be trained whole; leave it out"
                raise ConfigError([Problem(message, "modules_to_save", "conflict")])
        chosen.update(found)
    return shorten_names(chosen, among=modules, is_match=str.endswith)


def find_target_parameters(model: PreTrainedModel, *, wanted: Sequence[str]) -> list[str]:
    """`wanted`, when each names parameters of two or three dimensions that belong to no linear layer or embedding."""
    adaptable = [
        f"{module_name}.{name}"
        for module_name, module in model.named_modules()
        if module_name and not isinstance(module, _ADAPTABLE)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() in (2, 3) and parameter.is_floating_point()
    ]
    for target in wanted:
        if not any(is_named(name, target) for name in adaptable):
            names = sorted({".".join(name.rsplit(".", 2)[-2:]) for name in adaptable})
            message = f"lora_target_parameters: the model has no such parameter as {target!r} "
            message += f"outside of its linear layers; it has {', '.join(names) or 'none'}"
            raise ConfigError([Problem(message, "lora_target_parameters", "unknown_module")])
    return list(wanted)


def _find_all_linear(model: PreTrainedModel, *, besides: Sequence[str]) -> list[str]:
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)}
    output_embeddings = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    inside = [each for each in besides if each]
    chosen = {
        name
        for name, module in linear.items()
        if module is not output_embeddings and not any(is_named(name, each) or _lies_in(name, each) for each in inside)
    }
    if not chosen:
        message = f"{PARAM}: the model has no linear layer besides its head; name the layers"
        raise ConfigError([Problem(message, PARAM, "invalid_value")])
    return shorten_names(chosen, among=dict(model.named_modules()), is_match=is_named)


def shorten_names(chosen: set[str], *, among: Iterable[str], is_match: Callable[[str, str], bool]) -> list[str]:
    """The last parts of the names, as long as those match nothing else, else the names: people read them in
    adapter_config.json."""
    leaves = {name.rsplit(".", 1)[-1] for name in chosen}
    matched = {name for name in among if any(is_match(name, leaf) for leaf in leaves)}
    return sorted(leaves if matched == chosen else chosen)


def is_named(name: str, target: str) -> bool:
    """Whether `target` is the module's path, or whole last parts of it."""
    return name == target or name.endswith(f".{target}")


def _lies_in(name: str, module: str) -> bool:
    return f".{module}." in f".{name}"


def _unknown_targets(unknown: Iterable[str], adaptable: Iterable[str], *, param: str = PARAM) -> ConfigError:
    leaves = sorted({name.rsplit(".", 1)[-1] for name in adaptable})
    problems = []
    for target in unknown:
        nearest = difflib.get_close_matches(target, leaves, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        message = f"{param}: the model has no layer {target!r}{hint} It has {', '.join(leaves)}"
        problems.append(Problem(message, param, "unknown_module"))
    return ConfigError(problems)
