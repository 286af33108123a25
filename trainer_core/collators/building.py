"""Building of the collator that the Config names."""

import inspect
from typing import Any

from trainer_core.collators.base import BaseCollator
from trainer_core.collators.registry import collators_registry
from trainer_core.config import Config, ConfigError, Problem
from trainer_core.datasets.data_keys import apply_data_keys
from trainer_core.errors import UnknownKeyError

DEFAULT_SEPARATOR = "\n"


def build_collator(config: Config, tokenizer: Any, **kwargs: Any) -> BaseCollator:
    """The collator of `collator_key`, or of what the prepared data call for where it has its default.

    `kwargs` go to its constructor and win over the Config. `collator_separator` and `collator_prefix_end` are handed
    over when they are set, so that a constructor without them works, and one with a separator of its own keeps it.
    Raises UnknownKeyError for an unknown key, and ConfigError when one that is set means nothing to the collator.
    """
    config = apply_data_keys(config)
    collator_class = collators_registry.get(config.collator_key)
    if not (isinstance(collator_class, type) and issubclass(collator_class, BaseCollator)):
        raise UnknownKeyError(f"collator_key {config.collator_key!r} is not a subclass of BaseCollator")
    settings: dict[str, Any] = {}
    if config.collator_separator != DEFAULT_SEPARATOR:
        settings["separator"] = config.collator_separator
    if config.collator_prefix_end is not None:
        settings["prefix_end"] = config.collator_prefix_end
    _check_settings(collator_class, settings, config)
    return collator_class(**{"tokenizer": tokenizer, "max_length": config.max_length, **settings, **kwargs})


def _check_settings(collator_class: type[BaseCollator], settings: dict[str, Any], config: Config) -> None:
    accepted = _list_parameters(collator_class)
    problems = [
        Problem(
            f"collator_{name}: the collator {config.collator_key!r} has no {name}; leave it at its default",
            f"collator_{name}",
            "invalid_value",
        )
        for name in settings
        if name not in accepted
    ]
    if problems:
        raise ConfigError(problems)


def _list_parameters(collator_class: type[BaseCollator]) -> set[str]:
    """Names that the constructor takes, itself or through `**kwargs` by the classes above it."""
    names: set[str] = set()
    for cls in collator_class.__mro__:
        if "__init__" not in cls.__dict__:
            continue
        parameters = inspect.signature(cls.__dict__["__init__"]).parameters
        names.update(parameters)
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            break
    return names
