"""What a process needs to tokenise rows: a collator, and the data set where it lies in a file."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass

from trainer_core.collators.token_collator import TokenCollator
from trainer_core.datasets.base import BaseDataset
from trainer_core.datasets.rows_on_disk import RowsOnDisk
from trainer_core.tokenized.encoding import EncodedChunk, encode_rows, encode_samples
from trainer_core.types import RawSample

Rows = range | Sequence[RawSample]
"""Positions of rows for a process that reads them itself, else samples."""


class LoadFailure(Exception):
    """Data set or collator cannot be had in another process; raised to whoever can tokenise without one."""


@dataclass(frozen=True, slots=True)
class RowEncoder:
    """Goes to another process as a pickle."""

    collator: TokenCollator
    dataset: BaseDataset | None
    """None: samples are sent, because rows in memory would be there once more in each process."""

    def encode(self, rows: Rows) -> EncodedChunk:
        """The tokens of these rows. Raises what `encode_rows` raises, and SampleError for samples that were sent."""
        if isinstance(rows, range):
            if self.dataset is None:
                raise AssertionError("rows are sent by position only to a process with a data set")
            return encode_rows(self.dataset, self.collator, indices=rows)
        return encode_samples(self.collator, rows)


def pickle_encoder(dataset: BaseDataset, collator: TokenCollator) -> tuple[bytes, bool]:
    """A pickled RowEncoder, and whether it has the data set. Raises LoadFailure for a collator that cannot be sent."""
    if type(dataset.data) is RowsOnDisk:
        try:
            return pickle.dumps(RowEncoder(collator, dataset), protocol=pickle.HIGHEST_PROTOCOL), True
        except (TypeError, AttributeError, pickle.PicklingError):
            # The collator alone may do.
            pass
    try:
        return pickle.dumps(RowEncoder(collator, None), protocol=pickle.HIGHEST_PROTOCOL), False
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise LoadFailure(f"{type(collator).__name__} does not pickle: {error}") from error
