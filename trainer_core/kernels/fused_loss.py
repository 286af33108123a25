"""The loss of a causal language model from its last hidden states, without all logits."""

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from trainer_core.kernels.linear_cross_entropy import sum_cross_entropy

_HAS_LIGER = importlib.util.find_spec("liger_kernel") is not None
_LIGER_LOSS = "liger_kernel.ops.fused_linear_cross_entropy"
_LENGTH_STEP = 256
"""On a GPU the tokens are filled up to a multiple of this many, so that products have few different shapes."""

_LOGIT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Settings by which models bend their logits: of small ones so little that comparing losses would not show it."""


class FusedLoss:
    """Takes the place of a model's head and loss while `over` is open; at any other time the model is as it was.

    Between head and loss some models change the logits: whoever attaches this compares the losses.
    """

    def __init__(self, model: Any, *, is_in_head: bool = False, by_liger: bool | None = None) -> None:
        """`model`: a causal language model of transformers, below its adapters. `is_in_head`: the head itself computes
        the loss, as must be where its weight is whole just while it runs; otherwise logits may be scaled after it.
        `by_liger` None: Liger's kernel where it is installed and the model is on a GPU. Raises ValueError when
        `find_obstacle` finds one."""
        if obstacle := find_obstacle(model):
            raise ValueError(obstacle)
        self._head: Any = model.get_output_embeddings()
        self._is_in_head = is_in_head
        self._by_liger = by_liger
        self._targets: tuple[torch.Tensor, torch.Tensor] | None = None
        self._plain_forward = self._head.forward
        self._plain_loss = model.loss_function
        self._model = model
        self._head.forward = self._forward_head
        model.loss_function = self._compute

    def detach(self) -> None:
        """Leaves the model as it was before."""
        self._head.forward = self._plain_forward
        self._model.loss_function = self._plain_loss

    @contextmanager
    def over(self, index_K: torch.Tensor, ids_K: torch.Tensor) -> Iterator[None]:
        """Within, a forward pass with labels gives the loss of the tokens `ids_K` that follow the places `index_K`."""
        self._targets = (index_K, ids_K)
        try:
            yield
        finally:
            self._targets = None

    def _forward_head(self, hidden: torch.Tensor) -> torch.Tensor:
        """While `over` is open: the hidden states, of shape (1, T, H), or the sum of the losses, of shape (1, 1, 1)."""
        if self._targets is None:
            plain: torch.Tensor = self._plain_forward(hidden)
            return plain
        return self._sum(hidden, *self._targets).view(1, 1, 1) if self._is_in_head else hidden

    def _compute(
        self, logits: torch.Tensor, labels: torch.Tensor, vocab_size: int, num_items_in_batch: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        """`logits` are what the head gives while `over` is open."""
        if self._targets is None:
            plain: torch.Tensor = self._plain_loss(
                logits=logits, labels=labels, vocab_size=vocab_size, num_items_in_batch=num_items_in_batch, **kwargs
            )
            return plain
        index_K, ids_K = self._targets
        total = logits.view(()) if self._is_in_head else self._sum(logits, index_K, ids_K)
        return total / (max(ids_K.shape[0], 1) if num_items_in_batch is None else num_items_in_batch)

    def _sum(self, hidden: torch.Tensor, index_K: torch.Tensor, ids_K: torch.Tensor) -> torch.Tensor:
        # Under autocast the head's product would be in 16 bits: the states say in which.
        states_KH = hidden[0].index_select(0, index_K)
        weight_VH = self._head.weight.to(states_KH.dtype)
        sum_losses = _sum_by_liger if self._uses_liger(states_KH) else sum_cross_entropy
        return sum_losses(states_KH, weight_VH, ids_K, self._head.bias)

    def _uses_liger(self, states_KH: torch.Tensor) -> bool:
        if self._by_liger is not None:
            return self._by_liger
        return _HAS_LIGER and states_KH.is_cuda


def find_obstacle(model: Any) -> str | None:
    """Why a model's head and loss cannot be fused, None: they can, unless its losses then differ."""
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        return f"its head is a {type(head).__name__}, not a linear layer"
    settings = model.config.get_text_config()
    if any(getattr(settings, name, None) for name in _LOGIT_CAPS):
        return "its logits are capped after the head"
    if head._forward_hooks or head._forward_pre_hooks or hasattr(head, "_hf_hook"):
        return "its head is watched by hooks"
    return None


def _sum_by_liger(
    states_KH: torch.Tensor, weight_VH: torch.Tensor, ids_K: torch.Tensor, bias_V: torch.Tensor | None
) -> torch.Tensor:
    function = importlib.import_module(_LIGER_LOSS).LigerFusedLinearCrossEntropyFunction
    missing = -states_KH.shape[0] % _LENGTH_STEP
    states_KH = nn.functional.pad(states_KH, (0, 0, 0, missing))
    ids_K = nn.functional.pad(ids_K, (0, missing), value=-100)
    # input, weight, target, bias, ce_weight, ignore_index, lse_square_scale, label_smoothing, reduction
    outcome = function.apply(states_KH, weight_VH, ids_K, bias_V, None, -100, 0.0, 0.0, "sum")
    total: torch.Tensor = outcome[0] if isinstance(outcome, tuple) else outcome
    return total
