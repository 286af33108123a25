"""The check of every row before a GPU is used: each becomes a sample, and each sample has something to learn."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from trainer_core.collators.base import IGNORED_LABEL, BaseCollator
from trainer_core.collators.sample_error import SampleError
from trainer_core.collators.token_collator import TokenCollator
from trainer_core.datasets.base import BaseDataset
from trainer_core.datasets.row_error import RowError
from trainer_core.datasets.rows_on_disk import NUM_FAULTS_TOLD, LineError, describe_faults
from trainer_core.errors import DataError, TrainerError
from trainer_core.types import Batch, RawSample

CHUNK_ROWS = 256
MAX_FAULT_CHARACTERS = 2_000

Locate = Callable[[int], str]
"""Names a row, by its position in the data set, as its user knows it: file and line."""
OnProgress = Callable[[int], None]
"""Told how many rows are done, now and then."""


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """What one row comes to."""

    index: int
    """Position in the data set, from 0."""
    fault: str | None = None
    """Why the row cannot be trained on; None: it can."""
    num_tokens: int = 0
    """Tokens after cutting, without padding."""
    num_targets: int = 0
    """Tokens that are learned."""
    num_cut_tokens: int = 0
    """Tokens that did not fit into `max_length`; a collator of a user's own does not tell."""
    is_without_target: bool = False
    """The fault is that there is nothing to learn."""
    is_without_prefix_end: bool = False
    """The whole last part is learned because `collator_prefix_end` does not occur in it."""


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
    num_longest_tokens: int = 0
    """Tokens of the longest row before cutting."""
    num_rows_without_prefix_end: int = 0
    """Rows in which `collator_prefix_end` does not occur."""

    def with_row(self, row: RowOutcome) -> "TokenCounts":
        """These counts and one more row."""
        return TokenCounts(
            self.num_rows + 1,
            self.num_tokens + row.num_tokens,
            self.num_targets + row.num_targets,
            self.num_cut_rows + int(row.num_cut_tokens > 0),
            max(self.num_longest_tokens, row.num_tokens + row.num_cut_tokens),
            self.num_rows_without_prefix_end + int(row.is_without_prefix_end),
        )


def check_rows(
    dataset: BaseDataset,
    collator: BaseCollator,
    *,
    locate: Locate,
    num_rows: int,
    on_progress: OnProgress | None = None,
) -> TokenCounts:
    """Runs the first `num_rows` rows through data set and collator once.

    Raises DataError that tells the places of the rows that fail or have nothing to learn: the first ten, and how many
    there are.
    """
    counts = TokenCounts()
    faults: list[str] = []
    num_faults = 0
    for row in inspect_rows(dataset, collator, num_rows=num_rows):
        counts = counts.with_row(row)
        if row.fault is not None:
            num_faults += 1
            if num_faults <= NUM_FAULTS_TOLD:
                faults.append(f"{locate(row.index)}: {row.fault[:MAX_FAULT_CHARACTERS]}")
        if on_progress is not None and (row.index + 1) % CHUNK_ROWS == 0:
            on_progress(row.index + 1)
    if faults:
        raise DataError(describe_faults(faults, num_faults=num_faults, num_rows=num_rows))
    return counts


def inspect_rows(dataset: BaseDataset, collator: BaseCollator, *, num_rows: int) -> Iterator[RowOutcome]:
    """What each of the first `num_rows` rows comes to, in order.

    Raises TrainerError for what is no row's fault, such as a batch without its must-have keys.
    """
    for start in range(0, num_rows, CHUNK_ROWS):
        indices = range(start, min(start + CHUNK_ROWS, num_rows))
        samples: list[tuple[int, RawSample]] = []
        faults: dict[int, RowOutcome] = {}
        for index in indices:
            sample = _get_sample(dataset, index)
            if isinstance(sample, RowOutcome):
                faults[index] = sample
            else:
                samples.append((index, sample))
        found = {row.index: row for row in _inspect_samples(collator, samples)} | faults
        yield from (found[index] for index in indices)


def encodes_samples(collator: BaseCollator) -> TypeGuard[TokenCollator]:
    """Whether its batches are nothing but its padded samples, as those of the built-in collators are."""
    return isinstance(collator, TokenCollator) and type(collator).parse_batch is TokenCollator.parse_batch


def _get_sample(dataset: BaseDataset, index: int) -> RawSample | RowOutcome:
    try:
        return dataset[index]
    except (RowError, LineError) as error:
        return RowOutcome(index, fault=error.reason)
    except TrainerError:
        raise
    # get_sample is a user's code: whatever it raises is told with the row that it was given.
    except Exception as error:  # noqa: BLE001
        reason = f"{type(dataset).__name__}.get_sample failed: {type(error).__name__}: {error}"
        return RowOutcome(index, fault=reason)


def _inspect_samples(collator: BaseCollator, samples: Sequence[tuple[int, RawSample]]) -> Iterator[RowOutcome]:
    if not encodes_samples(collator):
        for index, sample in samples:
            yield _inspect_alone(collator, sample, index=index)
        return
    try:
        yield from list(_encode(collator, samples))
    except SampleError:
        # One bad sample fails its whole chunk: only then are they looked at one by one.
        for index, sample in samples:
            try:
                yield from _encode(collator, [(index, sample)])
            except SampleError as error:
                yield RowOutcome(index, fault=error.reason, is_without_target=error.is_without_target)


def _encode(collator: TokenCollator, samples: Sequence[tuple[int, RawSample]]) -> Iterator[RowOutcome]:
    raw = [sample for _, sample in samples]
    collator.check_samples(raw)
    for (index, _), tokens in zip(samples, collator.encode(raw), strict=True):
        yield RowOutcome(
            index,
            num_tokens=len(tokens.input_ids),
            num_targets=tokens.num_targets,
            num_cut_tokens=tokens.num_cut_tokens,
            is_without_prefix_end=tokens.is_without_prefix_end,
        )


def _inspect_alone(collator: BaseCollator, sample: RawSample, *, index: int) -> RowOutcome:
    try:
        batch = collator([sample])
    except SampleError as error:
        return RowOutcome(index, fault=error.reason, is_without_target=error.is_without_target)
    except TrainerError:
        raise
    # parse_batch is a user's code: whatever it raises is told with the row that it was given.
    except Exception as error:  # noqa: BLE001
        reason = f"{type(collator).__name__}.parse_batch failed: {type(error).__name__}: {error}"
        return RowOutcome(index, fault=reason)
    return _inspect_batch(batch, index=index)


def _inspect_batch(batch: Batch, *, index: int) -> RowOutcome:
    """Counts what there is to count: a collator may make batches without labels for a trainer of its own."""
    attention_mask: Any = batch.get("attention_mask")
    labels: Any = batch.get("labels")
    num_tokens = int(attention_mask.sum()) if attention_mask is not None else 0
    num_targets = int((labels != IGNORED_LABEL).sum()) if labels is not None else 0
    if labels is not None and not num_targets:
        reason = f"there is nothing to learn: every label is {IGNORED_LABEL}"
        return RowOutcome(index, fault=reason, num_tokens=num_tokens, is_without_target=True)
    return RowOutcome(index, num_tokens=num_tokens, num_targets=num_targets)
