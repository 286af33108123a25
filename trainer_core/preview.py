"""What training would see of a file of rows: the exact tokens of some, which of them are learned, and counts of all."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.collators.base import IGNORED_LABEL, BaseCollator
from trainer_core.collators.building import build_collator
from trainer_core.collators.row_check import MAX_FAULT_CHARACTERS, RowOutcome, TokenCounts, inspect_rows
from trainer_core.datasets.data_keys import infer_data_keys, with_keys
from trainer_core.datasets.loading import load_dataset
from trainer_core.datasets.rows_on_disk import NUM_FAULTS_TOLD, RowsOnDisk
from trainer_core.errors import DataError, StepInputError
from trainer_core.tokenizers import build_tokenizer
from trainer_core.tokenizers.token_pieces import split_into_pieces

if TYPE_CHECKING:
    from trainer_core.config import Config
    from trainer_core.datasets.base import BaseDataset

MAX_SAMPLES = 100
MAX_TOKENS_SHOWN = 65_536
"""Tokens of all samples together that are listed one by one: some megabytes of JSON."""


@dataclass(frozen=True, slots=True)
class PreviewToken:
    """One token as the model gets it."""

    id: int
    text: str
    """Its part of the sample's text; empty within a character of several tokens."""
    is_target: bool
    """Whether it is learned, given the tokens before it."""


@dataclass(frozen=True, slots=True)
class PreviewSample:
    """One row as the model gets it."""

    row: int
    """The line of the file, from 1."""
    text: str
    tokens: tuple[PreviewToken, ...]
    """Not all of them where `is_shortened`."""
    num_tokens: int
    num_target_tokens: int
    is_truncated: bool
    """The row is longer than `max_length`: the model does not get all of it."""
    is_shortened: bool = False
    """The list of tokens is cut for the preview alone."""


@dataclass(frozen=True, slots=True)
class PreviewError:
    """A row that cannot be trained on."""

    row: int
    """The line of the file, from 1."""
    message: str


@dataclass(frozen=True, slots=True)
class Preview:
    """Samples, and counts over all rows of the file."""

    dataset_key: str
    collator_key: str
    num_rows: int
    num_rows_counted: int
    """Rows that the counts below are of: fewer than `num_rows` where time ran out."""
    num_tokens: int
    num_target_tokens: int
    num_truncated_rows: int
    num_rows_without_target: int
    longest_row_tokens: int
    """Before cutting to `max_length`."""
    num_rows_without_prefix_end: int
    num_errors: int
    errors: tuple[PreviewError, ...] = ()
    """The first ten."""
    samples: tuple[PreviewSample, ...] = field(default=())
    """The first rows that give a sample."""


def render_preview(
    config: "Config", rows_path: str | Path, *, num_samples: int = 3, max_seconds: float | None = None
) -> Preview:
    """Runs a file's rows through data set, tokenizer and collator of the Config, as training would; loads no model.

    `num_samples` 0 to 100; after `max_seconds` (None: no bound) the rest of the rows is not counted. Raises
    StepInputError for a file that is not there or a number out of bounds, DataError for a file without rows or of no
    known shape, ModelLoadError for a tokenizer that cannot be had.
    """
    started_at = time.monotonic()
    if not 0 <= num_samples <= MAX_SAMPLES:
        raise StepInputError(f"num_samples must be 0 to {MAX_SAMPLES}, not {num_samples}", param="num_samples")
    rows = _open_rows(Path(rows_path))
    config = _choose_components(config, rows)
    dataset = load_dataset(config, str(rows.path))
    if len(dataset) < len(rows):
        name = type(dataset).__name__
        raise DataError(f"{name} has {len(dataset)} samples for {len(rows)} rows", param="dataset_key")
    collator = build_collator(config, build_tokenizer(config))
    tally = _Tally(rows)
    for row in inspect_rows(dataset, collator, num_rows=len(rows)):
        tally.add(row)
        if row.fault is None and len(tally.sampled) < num_samples:
            tally.sampled.append(row)
        if max_seconds is not None and time.monotonic() - started_at > max_seconds:
            break
    return tally.finish(config, samples=_render_samples(tally.sampled, rows, dataset, collator))


class _Tally:
    """Counts rows as they come."""

    def __init__(self, rows: RowsOnDisk) -> None:
        self.sampled: list[RowOutcome] = []
        self._rows = rows
        self._counts = TokenCounts()
        self._num_without_target = 0
        self._num_errors = 0
        self._errors: list[PreviewError] = []

    def add(self, row: RowOutcome) -> None:
        self._counts = self._counts.with_row(row)
        self._num_without_target += int(row.is_without_target)
        if row.fault is not None:
            self._num_errors += 1
            if len(self._errors) < NUM_FAULTS_TOLD:
                line = self._rows.get_line_number(row.index)
                self._errors.append(PreviewError(row=line, message=row.fault[:MAX_FAULT_CHARACTERS]))

    def finish(self, config: "Config", *, samples: Sequence[PreviewSample]) -> Preview:
        return Preview(
            dataset_key=config.dataset_key,
            collator_key=config.collator_key,
            num_rows=len(self._rows),
            num_rows_counted=self._counts.num_rows,
            num_tokens=self._counts.num_tokens,
            num_target_tokens=self._counts.num_targets,
            num_truncated_rows=self._counts.num_cut_rows,
            num_rows_without_target=self._num_without_target,
            longest_row_tokens=self._counts.num_longest_tokens,
            num_rows_without_prefix_end=self._counts.num_rows_without_prefix_end,
            num_errors=self._num_errors,
            errors=tuple(self._errors),
            samples=tuple(samples),
        )


def _open_rows(path: Path) -> RowsOnDisk:
    if not path.is_file():
        raise StepInputError(f"there is no file {path}", param="file")
    rows = RowsOnDisk(path)
    if not rows:
        raise DataError(f"{path.name} has no rows", param="file")
    return rows


def _choose_components(config: "Config", rows: RowsOnDisk) -> "Config":
    """As for an uploaded file; rows of SODA, which no upload has, are left to the Config's own data set."""
    first_row = rows[0]
    if isinstance(first_row, dict) and "dialog" in first_row and "messages" not in first_row:
        return config
    return with_keys(config, infer_data_keys(config, first_row))


def _render_samples(
    sampled: Sequence[RowOutcome], rows: RowsOnDisk, dataset: "BaseDataset", collator: BaseCollator
) -> list[PreviewSample]:
    room = MAX_TOKENS_SHOWN
    samples = []
    for row in sampled:
        line = rows.get_line_number(row.index)
        sample = _render_sample(row, line=line, batch=collator([dataset[row.index]]), collator=collator, room=room)
        room -= len(sample.tokens)
        samples.append(sample)
    return samples


def _render_sample(row: RowOutcome, *, line: int, batch: Any, collator: BaseCollator, room: int) -> PreviewSample:
    ids, is_target = _read_batch(batch)
    shown = ids[:room]
    pieces = split_into_pieces(collator.tokenizer, shown)
    tokens = tuple(
        PreviewToken(id=token, text=piece, is_target=target)
        for token, piece, target in zip(shown, pieces, is_target, strict=False)
    )
    return PreviewSample(
        row=line,
        text="".join(pieces),
        tokens=tokens,
        num_tokens=len(ids),
        num_target_tokens=sum(is_target),
        is_truncated=row.num_cut_tokens > 0,
        is_shortened=len(shown) < len(ids),
    )


def _read_batch(batch: Any) -> tuple[list[int], list[bool]]:
    """Tokens of a batch of one sample, without padding, and which of them are learned.

    A collator of a user's own may make a batch of another kind: what cannot be read as tokens is none, and labels of
    another shape than the tokens teach none of them.
    """
    input_ids, attention_mask, labels = (batch.get(key) for key in ("input_ids", "attention_mask", "labels"))
    if input_ids is None or getattr(input_ids, "ndim", 0) != 2 or not len(input_ids):
        return [], []
    is_kept = [True] * input_ids.shape[1]
    if attention_mask is not None and attention_mask.shape == input_ids.shape:
        is_kept = [bool(value) for value in attention_mask[0].tolist()]
    is_target = [False] * input_ids.shape[1]
    if labels is not None and labels.shape == input_ids.shape:
        is_target = [value != IGNORED_LABEL for value in labels[0].tolist()]
    kept = [position for position, keep in enumerate(is_kept) if keep]
    ids = input_ids[0].tolist()
    return [int(ids[position]) for position in kept], [is_target[position] for position in kept]
