"""Encoding of some rows at once into flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer_core.collators.sample_error import SampleError
from trainer_core.collators.token_collator import TokenCollator
from trainer_core.datasets.base import BaseDataset
from trainer_core.tokenized.row_sample_error import locate_error
from trainer_core.types import RawSample


@dataclass(frozen=True, slots=True, eq=False)
class EncodedChunk:
    """Tokens of consecutive rows, one row behind another."""

    input_ids: NDArray[np.int32]
    is_target: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    """Tokens of each row."""


def encode_samples(collator: TokenCollator, samples: Sequence[RawSample]) -> EncodedChunk:
    """The tokens of at least one sample. Raises SampleError as the collator does in training."""
    collator.check_samples(samples)
    encoded = collator.encode(samples)
    return EncodedChunk(
        input_ids=np.concatenate([np.asarray(sample.input_ids, dtype=np.int32) for sample in encoded]),
        is_target=np.concatenate([np.asarray(sample.is_target, dtype=np.bool_) for sample in encoded]),
        lengths=np.array([len(sample.input_ids) for sample in encoded], dtype=np.int64),
    )


def encode_rows(dataset: BaseDataset, collator: TokenCollator, *, indices: Sequence[int]) -> EncodedChunk:
    """The tokens of these rows. Raises what the data set raises for a row, and RowSampleError for its sample."""
    samples = [dataset[index] for index in indices]
    try:
        return encode_samples(collator, samples)
    except SampleError as error:
        raise locate_error(error, dataset, index=indices[error.position]) from error
