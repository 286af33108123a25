"""The rules by which rows from `get_data` become a training file and an evaluation file."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer_core.config import Config
from trainer_core.datasets.json_lines import write_rows
from trainer_core.errors import DataError
from trainer_core.types import RawSample


@dataclass(frozen=True, slots=True)
class Splits:
    """What was written."""

    num_train_rows: int
    num_eval_rows: int
    """0: no evaluation file was written."""
    notes: tuple[str, ...] = ()
    """What a user should know about rows that went elsewhere than named."""


@dataclass(frozen=True, slots=True)
class _Division:
    """Rows by where they go: training takes sources in turn, so that nothing is copied."""

    train: tuple[Sequence[RawSample], ...]
    eval: Sequence[RawSample]
    notes: tuple[str, ...]


def write_splits(data: tuple[Iterable[RawSample], Iterable[RawSample] | None], config: Config) -> Splits:
    """Divides the rows and writes them to the Config's paths; the sequences given are not changed.

    Without a path for evaluation rows they join training if `add_eval_to_train_if_no_path`, else they are left out.
    With one, what is above `max_eval_samples` joins training. Training rows are shuffled by `seed`. Raises DataError
    when no training row is left: nothing is written then.
    """
    train_rows, eval_rows = data
    division = _divide(_as_sequence(train_rows), _as_sequence(eval_rows or ()), config)
    num_train_rows = sum(len(rows) for rows in division.train)
    if num_train_rows == 0:
        raise DataError("the data set brought no training rows", param="dataset_key")
    num_eval_rows = 0
    if config.eval_local_path_to_data is not None and division.eval:
        num_eval_rows = write_rows(Path(config.eval_local_path_to_data), division.eval)
    write_rows(Path(config.train_local_path_to_data), _iterate_in_order(division.train, config))
    return Splits(num_train_rows=num_train_rows, num_eval_rows=num_eval_rows, notes=division.notes)


def shuffled_order(num_rows: int, config: Config) -> Sequence[int]:
    """The order in which training rows are stored: shuffled by `seed`, or as they are."""
    if not config.shuffle:
        return range(num_rows)
    order = list(range(num_rows))
    random.Random(config.seed).shuffle(order)
    return order


def _divide(train: Sequence[RawSample], evaluation: Sequence[RawSample], config: Config) -> _Division:
    if not evaluation:
        return _Division(train=(train,), eval=(), notes=())
    if config.eval_local_path_to_data is None:
        if config.add_eval_to_train_if_no_path:
            return _Division(train=(train, evaluation), eval=(), notes=())
        note = (
            f"{len(evaluation)} evaluation rows of the data set are left out: eval_local_path_to_data is not set; "
            "add_eval_to_train_if_no_path would train on them"
        )
        return _Division(train=(train,), eval=(), notes=(note,))
    if 0 < config.max_eval_samples < len(evaluation):
        kept = RowWindow(evaluation, stop=config.max_eval_samples)
        surplus = RowWindow(evaluation, start=config.max_eval_samples)
        note = f"{len(surplus)} evaluation rows above max_eval_samples={config.max_eval_samples} join training"
        return _Division(train=(train, surplus), eval=kept, notes=(note,))
    return _Division(train=(train,), eval=evaluation, notes=())


def _iterate_in_order(sources: tuple[Sequence[RawSample], ...], config: Config) -> Iterator[RawSample]:
    for position in shuffled_order(sum(len(rows) for rows in sources), config):
        index = position
        for rows in sources:
            if index < len(rows):
                yield rows[index]
                break
            index -= len(rows)


def _as_sequence(rows: Iterable[RawSample]) -> Sequence[RawSample]:
    """A `datasets.Dataset` stays on disk as it is; only what cannot be indexed becomes a list."""
    if hasattr(rows, "__len__") and hasattr(rows, "__getitem__") and not isinstance(rows, dict):
        return rows  # type: ignore[return-value]
    return list(rows)


class RowWindow(Sequence[RawSample]):
    """The rows from `start` to before `stop`, not copied; works on whatever is indexed by integers alone."""

    def __init__(self, rows: Sequence[RawSample], *, start: int = 0, stop: int | None = None) -> None:
        self._rows = rows
        self._range = range(len(rows))[start:stop]

    def __len__(self) -> int:
        return len(self._range)

    def __getitem__(self, index: int) -> RawSample:  # type: ignore[override]
        return self._rows[self._range[index]]
