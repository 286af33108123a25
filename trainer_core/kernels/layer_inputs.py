"""What parts of a model are called with."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments and keyword arguments."""


class _InputsFoundError(Exception):
    """Ends a forward pass at the part that was waited for."""


def find_inputs(module: nn.Module, *, run: Callable[[], object]) -> Call:
    """Of a module's first call when `run` runs the model forward, which ends there."""
    found: list[Call] = []

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


def find_all_inputs(modules: Sequence[nn.Module], *, run: Callable[[], object]) -> list[list[Call]]:
    """Of each module all calls while `run` runs the model forward."""
    found: list[list[Call]] = [[] for _ in modules]

    def keep(calls: list[Call]) -> Callable[..., None]:
        return lambda _module, args, kwargs: calls.append((args, kwargs))

    handles = [
        module.register_forward_pre_hook(keep(calls), with_kwargs=True)
        for module, calls in zip(modules, found, strict=True)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return found
