"""What a part of a model is called with."""

from collections.abc import Callable
from typing import Any

from torch import nn


class _InputsFoundError(Exception):
    """Ends a forward pass at the part that was waited for."""


def find_inputs(module: nn.Module, *, run: Callable[[], object]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a module's first call when `run` runs the model forward, which ends there."""
    found: list[tuple[Any, Any]] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        found.append((args, kwargs))
        raise _InputsFoundError

    handle = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _InputsFoundError:
        pass
    finally:
        handle.remove()
    return found[0]
