"""What the installation can do: the keys of the registries and the schemas of the Configs that workers announced."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256

from pydantic import JsonValue

from trainer_core.config import build_config_schema

# The app imports no component, so the built-in keys stand here for the time before the first worker announces itself.
BUILT_IN_REGISTRIES: Mapping[str, tuple[str, ...]] = {
    "datasets": ("chat", "default", "general", "soda"),
    "collators": ("chat", "completion", "default", "lm"),
    "trainers": ("default", "lm"),
    "experiments": ("base",),
    "quantizers": ("awq", "bnb", "fp8", "gptq", "w8a8"),
    "configs": ("base",),
}


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Keys by registry (datasets, collators, trainers, experiments, quantizers, configs); schemas by Config key."""

    registries: Mapping[str, tuple[str, ...]]
    configs: Mapping[str, JsonValue] = field(repr=False)

    @property
    def digest(self) -> str:
        """Equal for equal catalogues."""
        content = {"registries": {key: list(value) for key, value in self.registries.items()}, "configs": self.configs}
        return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class PluginError:
    """A plugin that a worker could not load: its keys are not announced."""

    plugin: str
    message: str


@dataclass(frozen=True, slots=True)
class Installation:
    """What submissions are checked against. `most_gpus`: of one host; None when no worker ever announced itself."""

    catalogue: Catalogue
    most_gpus: int | None
    plugin_errors: tuple[PluginError, ...] = ()
    """Of the workers that are online: why a key may be unknown."""


@cache
def built_in_catalogue() -> Catalogue:
    """What every worker of this version can do."""
    return Catalogue(registries=BUILT_IN_REGISTRIES, configs={"base": build_config_schema()})


def merge_catalogues(announced: Iterable[tuple[Mapping[str, list[str]], Mapping[str, JsonValue]]]) -> Catalogue:
    """The union of announced (registries, configs), the built-in one when there is none; a later schema wins."""
    registries: dict[str, set[str]] = {}
    configs: dict[str, JsonValue] = {}
    for some_registries, some_configs in announced:
        configs.update(some_configs)
        for name, keys in some_registries.items():
            registries.setdefault(name, set()).update(keys)
    if not registries:
        return built_in_catalogue()
    return Catalogue({name: tuple(sorted(keys)) for name, keys in registries.items()}, configs)
