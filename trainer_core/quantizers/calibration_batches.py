"""Calibration samples in batches, and which of their rows are tokens of a sample."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from trainer_core.quantizers.calibration_room import CalibrationRoom
    from trainer_core.types import Batch

KEYS = ("input_ids", "attention_mask")
LEAST_FILLED = 0.75
"""Share of a padded batch's longest sample that its shortest one must have: computing padding is no gain."""


class Batching(StrEnum):
    """Which samples may share a batch."""

    NONE = "none"
    EQUAL = "equal"
    """Samples of one length: nothing is padded, whatever a method looks at."""
    PADDED = "padded"
    """Samples of different lengths, padded at their ends: for a method that leaves padded rows out."""


@dataclass(frozen=True, slots=True)
class CalibrationBatch:
    """Samples that run through the model together."""

    inputs: "dict[str, Tensor]"
    """`input_ids` and `attention_mask`, each (samples, longest length). The mask is of ones also over padding: it lies
    behind the tokens, where a causal model's tokens do not see it, and so takes the same way as a sample alone."""
    is_token: "Tensor | None"
    """(samples, longest length), False for padding; None: there is none."""


def batch_samples(samples: "Sequence[Batch]", *, room: "CalibrationRoom", batching: Batching) -> list[CalibrationBatch]:
    """Every sample once. Samples whose own masks are not all ones stay alone."""
    if batching is Batching.NONE:
        return [_stack([sample]) for sample in samples]
    whole = [sample for sample in samples if bool(sample["attention_mask"].all())]
    alone = [sample for sample in samples if not bool(sample["attention_mask"].all())]
    by_length = sorted(whole, key=_get_length, reverse=True)
    groups: Iterable[list[Batch]] = [by_length]
    if batching is Batching.EQUAL:
        groups = (list(group) for _, group in groupby(by_length, key=_get_length))
    batches = [_stack(batch) for group in groups for batch in _split(group, room=room)]
    return batches + [_stack([sample]) for sample in alone]


def _split(samples: "list[Batch]", *, room: "CalibrationRoom") -> "Iterable[list[Batch]]":
    """`samples` come longest first."""
    batch: list[Batch] = []
    for sample in samples:
        longest = _get_length(batch[0]) if batch else 0
        if batch and (
            not room.fits(num_samples=len(batch) + 1, length=longest) or _get_length(sample) < LEAST_FILLED * longest
        ):
            yield batch
            batch = []
        batch.append(sample)
    if batch:
        yield batch


def _stack(samples: "list[Batch]") -> CalibrationBatch:
    import torch

    if len(samples) == 1:
        return CalibrationBatch({key: samples[0][key] for key in KEYS}, None)
    longest = max(_get_length(sample) for sample in samples)
    # Any token will do where no row is looked at.
    input_ids = samples[0]["input_ids"].new_zeros(len(samples), longest)
    is_token = torch.zeros(len(samples), longest, dtype=torch.bool)
    for row, sample in enumerate(samples):
        input_ids[row, : _get_length(sample)] = sample["input_ids"][0]
        is_token[row, : _get_length(sample)] = True
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    return CalibrationBatch(inputs, None if bool(is_token.all()) else is_token)


def _get_length(sample: "Batch") -> int:
    return int(sample["input_ids"].shape[1])
