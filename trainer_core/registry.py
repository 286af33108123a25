"""Registries: how a key in a Config becomes a component, built in or a user's own."""

import difflib
import importlib
from typing import Any, Generic, TypeVar

from trainer_core.errors import PluginError, UnknownKeyError

Component = TypeVar("Component")

_missing_plugins: list[str] = []
"""What went wrong with the plugins of this process: a key that is not there may be one of theirs."""


class Registry(Generic[Component]):
    """A table of components by key.

    A value is the component itself or a lazy `"module:attribute"` that is imported at the first `get`, so that
    listing the keys of a registry never imports torch.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._values: dict[str, Component | str] = {}

    def add(self, key: str, value: Component | str, override: bool = False) -> None:
        """Registers `value` under `key`.

        Raises ValueError for a key that is taken, unless `override`, and for a string that is not `module:attribute`.
        """
        if key in self._values and not override:
            raise ValueError(f"{self.name} has the key {key!r} already; pass override=True to replace it")
        if isinstance(value, str) and value.count(":") != 1:
            raise ValueError(f"a lazy value of {self.name} reads 'module:attribute', not {value!r}")
        self._values[key] = value

    def get(self, key: str) -> Component:
        """The component of `key`.

        Raises UnknownKeyError naming the nearest keys, and PluginError for a lazy value that cannot be imported.
        """
        if key not in self._values:
            unknown = describe_unknown_key(key, known=self.keys(), where=self.name)
            raise UnknownKeyError("; ".join([unknown, *_missing_plugins]))
        value = self._values[key]
        if isinstance(value, str):
            value = _import_component(value, registry_name=self.name)
            self._values[key] = value
        return value

    def keys(self) -> list[str]:
        """All keys, sorted; imports nothing."""
        return sorted(self._values)

    def __contains__(self, key: object) -> bool:
        return key in self._values


def note_missing_plugins(reasons: list[str]) -> None:
    """Makes the errors of all registries tell why keys may be missing; replaces what was noted before."""
    _missing_plugins[:] = reasons


def describe_unknown_key(key: str, *, known: list[str], where: str) -> str:
    """A sentence that names the nearest known keys, for errors."""
    nearest = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(name) for name in nearest)}?" if nearest else f"known: {', '.join(known)}"
    return f"{where} has no key {key!r}; {hint}"


def _import_component(path: str, *, registry_name: str) -> Any:
    module_name, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise PluginError(f"{registry_name}: {path!r} cannot be imported: {error}") from error
