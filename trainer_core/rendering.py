"""Rows of a file as the batches that training would see, for everything that looks at a model besides training."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.collators import build_collator
from trainer_core.datasets import load_dataset
from trainer_core.datasets.data_keys import DEFAULT_DATASET_KEY, apply_data_keys, infer_data_keys, with_keys
from trainer_core.datasets.rows_on_disk import RowsOnDisk
from trainer_core.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainer_core.config import Config
    from trainer_core.types import Batch


def choose_components(config: "Config", path: Path) -> "Config":
    """A copy of the Config with the data set and collator that fit a file which training did not prepare.

    Keys that the Config sets itself win; else the first row decides, as for an uploaded file; a row of no known shape
    is left to the Config's own data set. Raises DataError for an empty file.
    """
    first_row = next(iter(RowsOnDisk(path)), None)
    if first_row is None:
        raise DataError(f"{path} has no row")
    known = {"messages", "text_parts", config.dataset_sample_field}
    if config.dataset_key == DEFAULT_DATASET_KEY and not (isinstance(first_row, Mapping) and known & set(first_row)):
        return apply_data_keys(config)
    return with_keys(config, infer_data_keys(config, first_row))


def render_batches(
    path: Path,
    *,
    config: "Config",
    tokenizer: "PreTrainedTokenizerBase",
    batch_size: int,
    limit: int | None = None,
) -> "Iterator[Batch]":
    """Batches of the first `limit` rows (None: all) in file order, through the Config's data set and collator.

    The last batch may be smaller. Raises DataError for a row that gives no sample.
    """
    dataset = load_dataset(config, str(path))
    collator = build_collator(config, tokenizer)
    samples: Iterator[Any] = (dataset[index] for index in range(len(dataset)))
    samples = islice(samples, limit)
    while rows := list(islice(samples, batch_size)):
        yield collator(rows)
