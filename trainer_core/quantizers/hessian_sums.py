"""GPTQ's statistics of layers' inputs: the sum of the products of each pair of columns.

Shapes: N rows (tokens), D columns (a layer's inputs).
"""

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import nn

LEAST_BLOCK = 1024
NUM_BLOCKS = 8
"""The matrix is symmetric: in blocks of columns, of which only those from the diagonal on are computed, 8 blocks take
9/16 of the work of the whole."""


@dataclass
class _Pending:
    """An input whose products are not yet taken, since more layers may share it."""

    tensor: torch.Tensor
    is_token: torch.Tensor | None
    version: int
    layers: list[nn.Module] = field(default_factory=list)


class HessianSums:
    """Sums over batches, one for all layers that are given the very same tensor, as the projections of attention are.

    An input is only read when the next one comes: no layer may change it in place, which a model that can be trained
    does not do.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[nn.Module, ...], torch.Tensor] = {}
        self._num_samples: dict[nn.Module, int] = defaultdict(int)
        self._pending: _Pending | None = None

    def add(self, layer: nn.Module, inputs: torch.Tensor, *, is_token: torch.Tensor | None) -> None:
        """Counts a layer's input, (samples, length, D) or (N, D); `is_token` (samples, length) tells rows to leave out.

        Raises ValueError for an input whose rows are not those of the batch.
        """
        if self._pending is None or self._pending.tensor is not inputs:
            self._flush()
            self._pending = _Pending(inputs, is_token, inputs._version)
        self._pending.layers.append(layer)
        self._num_samples[layer] += len(is_token) if is_token is not None else len(inputs) if inputs.ndim > 2 else 1

    def take_all(self) -> dict[nn.Module, tuple[torch.Tensor, int]]:
        """For every layer seen since the last call its matrix (D, D), fp32, and the number of samples. Layers that
        share their inputs share the matrix too."""
        self._flush()
        totals: dict[nn.Module, torch.Tensor] = {}
        for layers, total in self._sums.items():
            # GPTQ's loss is the squared error, whose second derivative has a factor of 2.
            _mirror(total.mul_(2))
            for layer in layers:
                totals[layer] = totals[layer] + total if layer in totals else total
        taken = {layer: (total, self._num_samples[layer]) for layer, total in totals.items()}
        self._sums.clear()
        self._num_samples.clear()
        return taken

    def _flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is None:
            return
        if pending.tensor._version != pending.version:
            raise ValueError("a layer's input was changed in place after the layer had read it")
        rows_ND = select_rows(pending.tensor, pending.is_token)
        layers = tuple(pending.layers)
        if layers not in self._sums:
            num_columns = rows_ND.shape[1]
            self._sums[layers] = torch.zeros(num_columns, num_columns, dtype=torch.float32, device=rows_ND.device)
        add_products(self._sums[layers], rows_ND)


def select_rows(inputs: torch.Tensor, is_token: torch.Tensor | None) -> torch.Tensor:
    """The rows (N, D) of a layer's input that belong to tokens."""
    if is_token is None:
        return inputs.reshape(-1, inputs.shape[-1])
    is_token = is_token.to(inputs.device)
    if inputs.shape[:2] == is_token.shape and inputs.ndim > 2:
        return inputs[is_token].reshape(-1, inputs.shape[-1])
    if len(inputs) == is_token.numel():
        return inputs[is_token.reshape(-1)].reshape(-1, inputs.shape[-1])
    raise ValueError(f"a layer's input of shape {tuple(inputs.shape)} is not one row a token")


def add_products(sum_DD: torch.Tensor, rows_ND: torch.Tensor) -> None:
    """Adds rowsᵀ·rows to the blocks of `sum_DD` on and above the diagonal; what is below it means nothing.

    On a GPU 16-bit rows are multiplied as they are: the product of two is exact in fp32, in which it is added up, so
    that only the order of the sum differs from casting them first, at ten times the speed.
    """
    is_exact = _multiplies_16_bits(rows_ND)
    if not is_exact:
        rows_ND = rows_ND.float()
    for first, end in _iterate_blocks(len(sum_DD)):
        left, right = rows_ND[:, first:end].T, rows_ND[:, first:]
        if is_exact:
            sum_DD[first:end, first:] += torch.mm(left, right, out_dtype=torch.float32)
        else:
            sum_DD[first:end, first:].addmm_(left, right)


def _multiplies_16_bits(rows_ND: torch.Tensor) -> bool:
    """Whether the rows' GPU adds up the products of their 16 bits in fp32; one before Ampere knows no bf16."""
    if not rows_ND.is_cuda or rows_ND.dtype not in (torch.bfloat16, torch.float16):
        return False
    return rows_ND.dtype is torch.float16 or torch.cuda.get_device_capability(rows_ND.device) >= (8, 0)


def _mirror(sum_DD: torch.Tensor) -> None:
    """Fills what is below the diagonal's blocks."""
    for first, end in _iterate_blocks(len(sum_DD)):
        sum_DD[end:, first:end] = sum_DD[first:end, end:].T


def _iterate_blocks(num_columns: int) -> list[tuple[int, int]]:
    size = max(LEAST_BLOCK, -(-num_columns // NUM_BLOCKS))
    return [(first, min(first + size, num_columns)) for first in range(0, num_columns, size)]
