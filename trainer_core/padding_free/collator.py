"""The collator of rows: lays the samples of a batch end to end, in as few rows as they fit."""

from collections.abc import Sequence
from typing import Any, TypedDict

from trainer_core.collators.token_collator import TokenCollator
from trainer_core.padding_free.best_fit import pack_best_fit
from trainer_core.padding_free.rows import Row, RowShape, TokenSample, build_row
from trainer_core.types import RawSample


class RowBatch(TypedDict):
    """What training and evaluation without padding get: all samples of an optimizer step, or of an evaluation pass."""

    rows: list[Row]


def is_row_batch(batch: Any) -> bool:
    """Whether a batch is one of rows."""
    return isinstance(batch, dict) and "rows" in batch


class RowCollator:
    """Encodes samples by another collator, unless they are tokens already, and lays them into rows."""

    def __init__(self, collator: TokenCollator, *, shape: RowShape) -> None:
        self.collator = collator
        self.shape = shape

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the collator below."""
        return self.collator.tokenizer

    def __call__(self, raw_batch: Sequence[RawSample | TokenSample]) -> RowBatch:
        """Raises SampleError as the collator below does."""
        samples = self.collator.tokenize(raw_batch)
        lengths = [len(sample.input_ids) for sample in samples]
        groups = pack_best_fit(lengths, capacity=sum(lengths) if self.shape.is_single else self.shape.capacity)
        fill_token_id = self.collator.pad_token_id
        return {
            "rows": [
                build_row([samples[index] for index in group], shape=self.shape, fill_token_id=fill_token_id)
                for group in groups
            ]
        }

    def measure(self, dataset: Any) -> Sequence[int]:
        """Tokens of each sample of a data set: as it says itself, else by encoding them all."""
        lengths: Sequence[int] | None = getattr(dataset, "lengths", None)
        if lengths is not None:
            return [int(length) for length in lengths]
        return [len(self.collator.tokenize([dataset[index]])[0].input_ids) for index in range(len(dataset))]
