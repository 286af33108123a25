"""Cross entropy of a linear head without ever holding all logits."""

from typing import Any

import torch

_CHUNK_BYTES = {"cuda": 1 << 30, "cpu": 1 << 23}
"""Logits held at a time; on a CPU as many as stay near its caches."""


def sum_cross_entropy(
    hidden_KH: torch.Tensor, weight_VH: torch.Tensor, targets_K: torch.Tensor, bias_V: torch.Tensor | None = None
) -> torch.Tensor:
    """The sum, in nats and fp32, of the cross entropies of K tokens over V words.

    Logits are computed in the weight's format and the rest in fp32, as the models' own losses do. The gradients are
    computed with the losses, chunk by chunk, so that the backward pass only scales them.
    """
    total: torch.Tensor = _SumCrossEntropy.apply(hidden_KH, weight_VH, targets_K, bias_V)  # type: ignore[no-untyped-call]
    return total


class _SumCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_KH: torch.Tensor,
        weight_VH: torch.Tensor,
        targets_K: torch.Tensor,
        bias_V: torch.Tensor | None,
    ) -> torch.Tensor:
        needs_hidden, needs_weight, _, needs_bias = ctx.needs_input_grad
        total = torch.zeros((), dtype=torch.float32, device=hidden_KH.device)
        hidden_grad_KH = torch.empty_like(hidden_KH) if needs_hidden else None
        weight_grad_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if needs_weight else None
        bias_grad_V = torch.zeros_like(bias_V, dtype=torch.float32) if bias_V is not None and needs_bias else None
        size = max(1, _CHUNK_BYTES.get(hidden_KH.device.type, 1 << 30) // (4 * weight_VH.shape[0]))
        # One place for the logits of all chunks: on a CPU new memory costs as much as the product that fills it.
        place_CV = hidden_KH.new_empty(min(size, hidden_KH.shape[0]), weight_VH.shape[0], dtype=weight_VH.dtype)
        for start in range(0, hidden_KH.shape[0], size):
            chunk = slice(start, start + size)
            logits_CV = torch.mm(hidden_KH[chunk], weight_VH.T, out=place_CV[: hidden_KH[chunk].shape[0]])
            if bias_V is not None:
                logits_CV += bias_V
            logits_CV = logits_CV.float()
            picked_C = logits_CV.gather(1, targets_K[chunk, None])[:, 0]
            largest_C1 = logits_CV.amax(-1, keepdim=True)
            # The probabilities take the logits' place, and then the gradient theirs: 1 less where the target is.
            slopes_CV = logits_CV.sub_(largest_C1).exp_()
            sums_C1 = slopes_CV.sum(-1, keepdim=True)
            total += ((sums_C1.log() + largest_C1)[:, 0] - picked_C).sum()
            if not (needs_hidden or needs_weight):
                continue
            slopes_CV.div_(sums_C1)
            slopes_CV.scatter_add_(1, targets_K[chunk, None], slopes_CV.new_full((1, 1), -1.0).expand(len(sums_C1), 1))
            if bias_grad_V is not None:
                bias_grad_V += slopes_CV.sum(0)
            slopes_CV = slopes_CV.to(weight_VH.dtype)
            if hidden_grad_KH is not None:
                torch.mm(slopes_CV, weight_VH, out=hidden_grad_KH[chunk])
            if weight_grad_VH is not None and weight_grad_VH.dtype == slopes_CV.dtype:
                weight_grad_VH.addmm_(slopes_CV.T, hidden_KH[chunk])
            elif weight_grad_VH is not None:
                weight_grad_VH += slopes_CV.T @ hidden_KH[chunk]
        ctx.weight_dtype = weight_VH.dtype
        ctx.save_for_backward(hidden_grad_KH, weight_grad_VH, bias_grad_V)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (scale,) = grads
        hidden_grad_KH, weight_grad_VH, bias_grad_V = ctx.saved_tensors
        return (
            None if hidden_grad_KH is None else (hidden_grad_KH * scale).to(hidden_grad_KH.dtype),
            None if weight_grad_VH is None else (weight_grad_VH * scale).to(ctx.weight_dtype),
            None,
            None if bias_grad_V is None else (bias_grad_V * scale).to(ctx.weight_dtype),
        )
