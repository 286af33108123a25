"""Rows: samples laid end to end as the tensors that a model takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from trainer_core.collators.base import IGNORED_LABEL

FEWEST_BOUNDARIES = 128
"""The list of boundaries is as long as this or a power of two above: compiled code sees few different lengths."""

_LONG = 4096
"""Tokens of a sample whose attention is worth a kernel of its own; compiled layers get a second variant for it."""


class TokenSample(Protocol):
    """One sample: `input_ids` and `is_target`, of one length each."""

    @property
    def input_ids(self) -> Sequence[int]: ...

    @property
    def is_target(self) -> Sequence[bool]: ...


@dataclass(frozen=True, slots=True)
class RowShape:
    """How the rows of a training look."""

    capacity: int
    """Tokens that samples share a row up to; one longer sample has a row of its own."""
    longest: int
    """No sample has more tokens."""
    multiple: int = 1
    """Rows are filled up with ignored tokens to a multiple of this many, so that compiled code sees few lengths."""
    is_single: bool = False
    """A batch is one row, however long: processes that hold shards of a model must run it equally often."""


@dataclass(slots=True)
class Row:
    """One row. Shapes: T tokens, S boundaries, K targets."""

    inputs: dict[str, Any]
    """What the model takes: `input_ids`, `labels`, `position_ids` (1, T) and the boundaries under the names that
    transformers gives them (`cu_seq_lens_q` and `_k`, int32 (S,), `max_length_q` and `_k`)."""
    target_index_K: torch.Tensor
    """Places in the row whose next token is learned."""
    target_ids_K: torch.Tensor
    """Those next tokens."""
    num_tokens: int
    """Tokens of samples, without what the row is filled up with."""
    num_samples: int

    @property
    def num_targets(self) -> int:
        """Tokens that are learned."""
        return int(self.target_ids_K.shape[0])

    @property
    def is_one_long_sample(self) -> bool:
        """Whether the row is one sample, long enough for its attention to matter, and not much else."""
        return self.num_samples == 1 and self.num_tokens >= max(_LONG, 0.9 * self.inputs["input_ids"].numel())

    def to(self, device: Any, non_blocking: bool = False) -> "Row":
        """The row on a device; data loaders call this by its name."""
        return Row(
            inputs={name: _move(value, device, non_blocking=non_blocking) for name, value in self.inputs.items()},
            target_index_K=_move(self.target_index_K, device, non_blocking=non_blocking),
            target_ids_K=_move(self.target_ids_K, device, non_blocking=non_blocking),
            num_tokens=self.num_tokens,
            num_samples=self.num_samples,
        )

    def pin_memory(self) -> "Row":
        """The row in memory that a GPU copies from by itself."""
        return Row(
            inputs={name: _pin(value) for name, value in self.inputs.items()},
            target_index_K=self.target_index_K.pin_memory(),
            target_ids_K=self.target_ids_K.pin_memory(),
            num_tokens=self.num_tokens,
            num_samples=self.num_samples,
        )


def build_row(samples: Sequence[TokenSample], *, shape: RowShape, fill_token_id: int) -> Row:
    """The row of these samples in this order; positions begin anew with each.

    What the row is filled up with is ignored samples of its own, none longer than `shape.longest`: attention kernels
    leave what lies beyond the last boundary uncomputed.
    """
    lengths = [len(sample.input_ids) for sample in samples]
    num_tokens = sum(lengths)
    lengths += _fill_lengths(num_tokens, shape)
    num_filled = sum(lengths)
    # By NumPy: torch wakes all of the host's cores for a few thousand numbers, which takes longer than a layer does.
    ids = np.full(num_filled, fill_token_id, dtype=np.int64)
    is_target = np.zeros(num_filled, dtype=bool)
    start = 0
    for sample in samples:
        end = start + len(sample.input_ids)
        ids[start:end] = sample.input_ids
        is_target[start:end] = sample.is_target
        is_target[start] = False
        start = end
    ends = np.cumsum(lengths)
    positions = np.arange(num_filled) - np.repeat(ends - lengths, lengths)
    boundaries_S = _build_boundaries(ends.tolist())
    target_places = np.flatnonzero(is_target)
    return Row(
        inputs={
            "input_ids": torch.from_numpy(ids)[None],
            "labels": torch.from_numpy(np.where(is_target, ids, IGNORED_LABEL))[None],
            "position_ids": torch.from_numpy(positions)[None],
            "cu_seq_lens_q": boundaries_S,
            "cu_seq_lens_k": boundaries_S,
            "max_length_q": max(shape.longest, *lengths),
            "max_length_k": max(shape.longest, *lengths),
            # A cache changes which tokens attend to which, even where nothing is in it.
            "use_cache": False,
        },
        target_index_K=torch.from_numpy(target_places - 1),
        target_ids_K=torch.from_numpy(ids[target_places]),
        num_tokens=num_tokens,
        num_samples=len(samples),
    )


def split_row(row: Row) -> tuple[Row, Row] | None:
    """Two rows of about half the tokens each, cut between samples; None where there is one sample only."""
    ends = row.inputs["cu_seq_lens_q"].tolist()[1 : row.num_samples + 1]
    if len(ends) < 2:
        return None
    middle = min(ends[:-1], key=lambda end: abs(end - row.num_tokens / 2))
    num_first = ends.index(middle) + 1
    return (
        _cut_row(row, start=0, end=middle, ends=ends[:num_first]),
        _cut_row(row, start=middle, end=ends[-1], ends=ends[num_first:]),
    )


def _cut_row(row: Row, *, start: int, end: int, ends: Sequence[int]) -> Row:
    boundaries_S = _build_boundaries([each - start for each in ends]).to(row.target_ids_K.device)
    kept_K = (row.target_index_K >= start) & (row.target_index_K < end)
    inputs = {name: row.inputs[name][:, start:end] for name in ("input_ids", "labels", "position_ids")}
    return Row(
        inputs=row.inputs | inputs | {"cu_seq_lens_q": boundaries_S, "cu_seq_lens_k": boundaries_S},
        target_index_K=row.target_index_K[kept_K] - start,
        target_ids_K=row.target_ids_K[kept_K],
        num_tokens=end - start,
        num_samples=len(ends),
    )


def _fill_lengths(num_tokens: int, shape: RowShape) -> list[int]:
    missing = -num_tokens % shape.multiple
    whole, rest = divmod(missing, shape.longest)
    return [shape.longest] * whole + [rest] * (rest > 0)


def _build_boundaries(ends: Sequence[int]) -> torch.Tensor:
    """0 and where each sample ends; the last end again until the list has its length: empty samples."""
    boundaries = [0, *ends]
    size = max(FEWEST_BOUNDARIES, 1 << (len(boundaries) - 1).bit_length())
    boundaries += [boundaries[-1]] * (size - len(boundaries))
    return torch.tensor(boundaries, dtype=torch.int32)


def _move(value: Any, device: Any, *, non_blocking: bool) -> Any:
    return value.to(device, non_blocking=non_blocking) if isinstance(value, torch.Tensor) else value


def _pin(value: Any) -> Any:
    return value.pin_memory() if isinstance(value, torch.Tensor) else value
