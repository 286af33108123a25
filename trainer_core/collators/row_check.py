"""The check of every row before a GPU is used: each becomes a sample, and each sample has something to learn."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeGuard

from trainer_core.collators.base import IGNORED_LABEL, BaseCollator
from trainer_core.collators.sample_error import SampleError
from trainer_core.collators.token_collator import TokenCollator
from trainer_core.datasets.base import BaseDataset
from trainer_core.datasets.row_error import RowError
from trainer_core.errors import DataError, TrainerError
from trainer_core.types import Batch, RawSample

CHUNK_ROWS = 256

Locate = Callable[[int], str]
"""Names a row, by its position in the data set, as its user knows it: file and line."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """What a file of rows amounts to."""

    num_rows: int = 0
    num_tokens: int = 0
    """Tokens after cutting, without padding."""
    num_targets: int = 0
    """Tokens that are learned."""
    num_cut_rows: int = 0
    """Rows longer than `max_length`; a collator of a user's own does not tell."""

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        return TokenCounts(
            self.num_rows + other.num_rows,
            self.num_tokens + other.num_tokens,
            self.num_targets + other.num_targets,
            self.num_cut_rows + other.num_cut_rows,
        )


def check_rows(dataset: BaseDataset, collator: BaseCollator, *, locate: Locate, num_rows: int) -> TokenCounts:
    """Runs the first `num_rows` rows through data set and collator once.

    Raises DataError that begins with the row's place for the first row that fails or has nothing to learn.
    """
    counts = TokenCounts()
    for start in range(0, num_rows, CHUNK_ROWS):
        indices = range(start, min(start + CHUNK_ROWS, num_rows))
        samples = [_get_sample(dataset, index, locate) for index in indices]
        for part in _count_chunk(collator, samples, start=start, locate=locate):
            counts += part
    return counts


def encodes_samples(collator: BaseCollator) -> TypeGuard[TokenCollator]:
    """Whether its batches are nothing but its padded samples, as those of the built-in collators are."""
    return isinstance(collator, TokenCollator) and type(collator).parse_batch is TokenCollator.parse_batch


def _get_sample(dataset: BaseDataset, index: int, locate: Locate) -> RawSample:
    try:
        return dataset[index]
    except RowError as error:
        raise DataError(f"{locate(index)}: {error.reason}") from error
    except TrainerError:
        raise
    # get_sample is a user's code: whatever it raises is told with the row that it was given.
    except Exception as error:
        reason = f"{type(dataset).__name__}.get_sample failed: {type(error).__name__}: {error}"
        raise DataError(f"{locate(index)}: {reason}") from error


def _count_chunk(
    collator: BaseCollator, samples: list[RawSample], *, start: int, locate: Locate
) -> Iterator[TokenCounts]:
    if not encodes_samples(collator):
        for position, sample in enumerate(samples):
            yield _count_alone(collator, sample, place=locate(start + position))
        return
    try:
        collator.check_samples(samples)
        encoded = collator.encode(samples)
    except SampleError as error:
        raise DataError(f"{locate(start + error.position)}: {error.reason}") from error
    for tokens in encoded:
        yield TokenCounts(1, len(tokens.input_ids), tokens.num_targets, int(tokens.num_cut_tokens > 0))


def _count_alone(collator: BaseCollator, sample: RawSample, *, place: str) -> TokenCounts:
    try:
        batch = collator([sample])
    except SampleError as error:
        raise DataError(f"{place}: {error.reason}") from error
    except TrainerError:
        raise
    # parse_batch is a user's code: whatever it raises is told with the row that it was given.
    except Exception as error:
        reason = f"{type(collator).__name__}.parse_batch failed: {type(error).__name__}: {error}"
        raise DataError(f"{place}: {reason}") from error
    return _count_batch(batch, place=place)


def _count_batch(batch: Batch, *, place: str) -> TokenCounts:
    """Counts what there is to count: a collator may make batches without labels for a trainer of its own."""
    attention_mask: Any = batch.get("attention_mask")
    labels: Any = batch.get("labels")
    num_tokens = int(attention_mask.sum()) if attention_mask is not None else 0
    num_targets = int((labels != IGNORED_LABEL).sum()) if labels is not None else 0
    if labels is not None and not num_targets:
        raise DataError(f"{place}: there is nothing to learn: every label is {IGNORED_LABEL}")
    return TokenCounts(1, num_tokens, num_targets)
