"""MLPs of long rows, a tile of tokens after the other: inside they are several times as wide as the hidden states."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from trainer_core.kernels.layer_inputs import find_inputs
from trainer_core.kernels.offloaded_checkpoint import OffloadedCheckpoint, Run
from trainer_core.kernels.replay import Surroundings

TILE_TOKENS = 4096
"""Of a tile: products of this height run at a GPU's full rate."""
_TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-8}
_TOLERANCE = 0.02
"""Largest difference of two ways, as a share of the largest number; this one in 16 bits."""


def find_tiling_obstacle(layers: Sequence[Any], *, run: Callable[[], object]) -> str | None:
    """Why the layers' MLPs cannot go tile by tile; None: they can. `run` runs the model forward on a short row."""
    if not all(isinstance(getattr(layer, "mlp", None), nn.Module) for layer in layers):
        return "not every layer has a part named mlp"
    mlp = layers[0].mlp
    args, kwargs = find_inputs(mlp, run=run)
    if len(args) != 1 or kwargs:
        return "its MLPs take more than the hidden states"
    (hidden_1TD,) = args
    middle = hidden_1TD.shape[-2] // 2
    with torch.no_grad():
        whole, first, second = mlp(hidden_1TD), mlp(hidden_1TD[:, :middle]), mlp(hidden_1TD[:, middle:])
    if not isinstance(whole, torch.Tensor) or whole.shape != hidden_1TD.shape or whole.dtype != hidden_1TD.dtype:
        return "its MLPs do not give hidden states alone"
    if not _are_alike(torch.cat([first, second], dim=-2), whole):
        return "a token's numbers depend on the tokens beside it"
    return None


def looks_at_output(layer: Any, *, run: Callable[[], object]) -> bool:
    """Whether a layer's gradients depend on what its MLP gave, or may do so.

    Where it is only added to the rest, as in most models, they do not: what is not a number there leaves them whole.
    """
    args, kwargs = find_inputs(layer, run=run)
    if len(args) != 1:
        return True
    hidden = args[0].detach().requires_grad_()
    surroundings = Surroundings(hidden.device)
    with surroundings.again():
        (expected,) = torch.autograd.grad(layer(hidden, **kwargs).sum(), hidden)
    hook = layer.mlp.register_forward_hook(lambda _module, _inputs, output: output + float("nan"))
    try:
        with surroundings.again():
            (found,) = torch.autograd.grad(layer(hidden, **kwargs).sum(), hidden)
    finally:
        hook.remove()
    return not _are_alike(found, expected)


def tile_mlps(layers: Sequence[Any], *, store: OffloadedCheckpoint | None, is_output_needed: bool) -> None:
    """Changes the layers in place: rows longer than a tile go through their MLPs tile by tile.

    `store`: what the layers' checkpoints are kept by. While it runs a layer again, an MLP whose output is not needed is
    passed over, as its own backward pass runs it again in any case.
    """
    for layer in layers:
        _tile(layer.mlp, store=store, is_output_needed=is_output_needed)


def _tile(mlp: Any, *, store: OffloadedCheckpoint | None, is_output_needed: bool) -> None:
    run = mlp.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.shape[-2] <= TILE_TOKENS:
            plain: torch.Tensor = run(hidden)
            return plain
        is_passed_over = store is not None and store.is_recomputing and not is_output_needed
        weights = [weight for weight in mlp.parameters() if weight.requires_grad]
        result: torch.Tensor = _Tiles.apply(hidden, run, is_passed_over, *weights)  # type: ignore[no-untyped-call]
        return result

    mlp.forward = forward


class _Tiles(torch.autograd.Function):
    """Keeps the input alone, and gives each weight one gradient, as ranks that wait for it expect."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, run: Run, is_passed_over: bool, *weights: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden, *weights)
        ctx.run, ctx.surroundings = run, Surroundings(hidden.device)
        if is_passed_over:
            # Not a number: whoever looks at it in spite of what was found must not go on.
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


def _are_alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    difference = (one - other).abs().max()
    # Not a number is no success either.
    return bool(difference <= _TOLERANCES.get(one.dtype, _TOLERANCE) * other.abs().max())
