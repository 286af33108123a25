"""MLPs of long rows, a tile of tokens after the other: inside they are several times as wide as the hidden states."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import nn

from trainer_core.kernels.layer_inputs import find_all_inputs
from trainer_core.kernels.offloaded_checkpoint import OffloadedCheckpoint, Run
from trainer_core.kernels.replay import Surroundings

TILE_TOKENS = 4096
"""Of a tile: products of this height run at a GPU's full rate."""
_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-8}
_TOLERANCE = 0.02
"""Largest difference of two ways, as a share of the largest number; this one in 16 bits."""
_DIMENSIONS = 3
"""Of hidden states: rows, tokens, width."""


def find_length_obstacle(capacity: int, *, is_asked_for: bool) -> str | None:
    """Why rows of up to `capacity` tokens are too short for tiles; None: they are not."""
    fewest = TILE_TOKENS + 1 if is_asked_for else 2 * TILE_TOKENS
    return None if capacity >= fewest else f"rows of {capacity} tokens are short; a tile has {TILE_TOKENS}"


def find_tiling_obstacle(layers: Sequence[Any], *, run: Callable[[], object]) -> str | None:
    """Why the layers' MLPs cannot go tile by tile; None: they can. `run` runs the model forward on a short row."""
    if not layers or not all(isinstance(getattr(layer, "mlp", None), nn.Module) for layer in layers):
        return "its layers do not all have a part named mlp"
    mlps = [layer.mlp for layer in layers]
    try:
        found = [
            _find_mlp_obstacle(mlp, calls) for mlp, calls in zip(mlps, find_all_inputs(mlps, run=run), strict=True)
        ]
    # Whatever it is that an MLP does not do with a part of a row, it stays whole.
    except Exception as error:  # noqa: BLE001
        return f"its MLPs could not be tried: {error}"
    return next((obstacle for obstacle in found if obstacle is not None), None)


def _find_mlp_obstacle(mlp: nn.Module, calls: Sequence[Any]) -> str | None:
    if len(calls) != 1:
        return "a layer's MLP is not called once"
    (args, kwargs), *_ = calls
    if len(args) != 1 or kwargs or args[0].dim() != _DIMENSIONS:
        return "its MLPs take more than the hidden states, or in another shape"
    (hidden,) = args
    parts = torch.split(hidden, -(-hidden.shape[-2] // 2), dim=-2)
    with torch.no_grad(), _without_dropout(mlp):
        whole, results = mlp(hidden), [mlp(part) for part in parts]
    if not isinstance(whole, torch.Tensor) or whole.shape != hidden.shape or whole.dtype != hidden.dtype:
        return "its MLPs do not give hidden states alone"
    return None if _are_alike(torch.cat(results, dim=-2), whole) else "a token's numbers depend on those beside it"


def needs_outputs(layers: Sequence[Any], *, run: Callable[[], object]) -> bool:
    """Whether the gradients of a layer may depend on what its MLP gave, or on the random numbers that this one drew.

    Where the output is only added to the rest, as in most models, they do not: what is not a number there leaves them
    whole. `run` runs the model, which is to be in the mode it is trained in, forward on a short row.
    """
    try:
        found = find_all_inputs(layers, run=run)
        return any(
            len(calls) != 1 or _needs_output(layer, *calls[0]) for layer, calls in zip(layers, found, strict=True)
        )
    # Nothing is proven.
    except Exception:  # noqa: BLE001
        return True


def _needs_output(layer: Any, args: Any, kwargs: Any) -> bool:
    if len(args) != 1:
        return True
    hidden = args[0].detach().requires_grad_()
    inside = {id(weight) for weight in layer.mlp.parameters()}
    weights = [weight for weight in layer.parameters() if weight.requires_grad and id(weight) not in inside]
    before, after_mlp = Surroundings(hidden.device), []
    with before.again(), _hook(layer.mlp, lambda *_: after_mlp.append(Surroundings(hidden.device))):
        output = layer(hidden, **kwargs)
        if after_mlp[-1].have_drawn():
            return True
        expected = torch.autograd.grad(output.sum(), (hidden, *weights), allow_unused=True)
    with before.again(), _hook(layer.mlp, lambda _module, _args, output: output + torch.nan):
        found = torch.autograd.grad(layer(hidden, **kwargs).sum(), (hidden, *weights), allow_unused=True)
    return not all(_are_alike(one, other) for one, other in zip(found, expected, strict=True))


def tile_mlps(layers: Sequence[Any], *, store: OffloadedCheckpoint | None) -> None:
    """Changes the layers in place: rows longer than a tile go through their MLPs tile by tile, until `remove_tiles`.

    `store`: while it runs a layer again, the MLP is passed over, as its own backward pass runs it again in any case;
    for MLPs whose outputs are not needed then. None: it is not passed over.
    """
    for layer in layers:
        mlp = layer.mlp
        mlp.tiling = _Tiling(own_forward=vars(mlp).get("forward"), store=store)
        mlp.forward = MethodType(_tiled_forward, mlp)


def remove_tiles(model: nn.Module) -> None:
    """Makes whole again what `tile_mlps` changed."""
    for module in model.modules():
        tiling = vars(module).get("tiling")
        if not isinstance(tiling, _Tiling):
            continue
        del module.tiling, module.forward
        if tiling.own_forward is not None:
            module.forward = tiling.own_forward


@dataclass(frozen=True, slots=True)
class _Tiling:
    """How an MLP goes tile by tile."""

    own_forward: Any
    """The MLP's forward where it is not its class's."""
    store: OffloadedCheckpoint | None


def _tiled_forward(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    tiling: _Tiling = self.tiling
    run = tiling.own_forward or MethodType(type(self).forward, self)
    if hidden.dim() != _DIMENSIONS or hidden.shape[-2] <= TILE_TOKENS:
        plain: torch.Tensor = run(hidden)
        return plain
    is_passed_over = tiling.store is not None and tiling.store.is_recomputing
    weights = [weight for weight in self.parameters() if weight.requires_grad]
    result: torch.Tensor = _Tiles.apply(hidden, run, is_passed_over, *weights)  # type: ignore[no-untyped-call]
    return result


class _Tiles(torch.autograd.Function):
    """Keeps the input alone, and gives each weight one gradient, as ranks that wait for it expect."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, run: Run, is_passed_over: bool, *weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden, *weights)
        ctx.run, ctx.surroundings = run, Surroundings(hidden.device)
        if is_passed_over:
            # Whoever looks at it in spite of what was found gets no wrong number, but none.
            return torch.full_like(hidden, torch.nan)
        output = torch.empty_like(hidden)
        for part, result in zip(_cut(hidden), _cut(output), strict=True):
            result.copy_(run(part))
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden, *weights = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        sums: list[torch.Tensor | None] = [None] * len(weights)
        with ctx.surroundings.again():
            for part, grad_output, grad_part in zip(_cut(hidden), _cut(grads[0]), _cut(grad_hidden), strict=True):
                start = part.detach().requires_grad_()
                first, *rest = torch.autograd.grad(ctx.run(start), (start, *weights), grad_output, allow_unused=True)
                grad_part.copy_(first)
                sums = [_add(total, grad) for total, grad in zip(sums, rest, strict=True)]
        found = [None if total is None else total.to(each.dtype) for total, each in zip(sums, weights, strict=True)]
        return grad_hidden, None, None, *found


def _cut(hidden: torch.Tensor) -> Sequence[torch.Tensor]:
    return torch.split(hidden, TILE_TOKENS, dim=-2)


def _add(total: torch.Tensor | None, grad: torch.Tensor | None) -> torch.Tensor | None:
    """In fp32 at least: a sum of many tiles is not rounded after each."""
    if grad is None:
        return total
    return grad.to(torch.promote_types(grad.dtype, torch.float32)) if total is None else total.add_(grad)


def _are_alike(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    difference = (one - other).abs().max()
    # Not a number is no success either.
    return bool(difference <= _TOLERANCES.get(one.dtype, _TOLERANCE) * other.abs().max())


@contextmanager
def _hook(module: nn.Module, hook: Callable[..., Any]) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _without_dropout(module: nn.Module) -> Iterator[None]:
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode
