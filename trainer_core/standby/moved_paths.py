"""Paths that libraries took from the environment when they were imported, and that change when the owner is known."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any


class MovedPaths:
    """All paths below a folder that modules, their classes and their objects hold by name.

    What holds one in another way goes on using the folder, which is this process's own and nobody else's.
    """

    def __init__(self, home: str) -> None:
        """Looks for them: call it when everything is imported."""
        self._home = home
        self._holders = [(owner, name) for owner, name, value in _iterate_values() if self._is_below(value)]

    def __len__(self) -> int:
        return len(self._holders)

    def move(self, home: str) -> None:
        """Makes them the same paths below another folder."""
        for owner, name in self._holders:
            value = getattr(owner, name)
            moved = home + os.fspath(value)[len(self._home) :]
            setattr(owner, name, moved if isinstance(value, str) else type(value)(moved))

    def _is_below(self, value: Any) -> bool:
        # By its type: some objects in libraries answer isinstance with a warning, or an import.
        if type(value) is not str and not issubclass(type(value), Path):
            return False
        text: str = os.fspath(value)
        return text == self._home or text.startswith(f"{self._home}{os.sep}")


def _iterate_values() -> Iterator[tuple[Any, str, Any]]:
    """Yields holder, name and value of all modules' values, and of those that classes and objects in them have.

    Nothing is called: a property or a lazy module might import something.
    """
    for module in list(sys.modules.values()):
        if not issubclass(type(module), ModuleType):
            continue
        for name, value in list(vars(module).items()):
            yield module, name, value
            if issubclass(type(value), ModuleType | FunctionType):
                continue
            for inner, each in _list_attributes(value):
                yield value, inner, each


def _list_attributes(value: Any) -> list[tuple[str, Any]]:
    read = type.__getattribute__ if issubclass(type(value), type) else object.__getattribute__
    try:
        found = read(value, "__dict__")
        return [(name, each) for name, each in found.items() if isinstance(name, str)]
    except (AttributeError, TypeError, RuntimeError):
        return []
