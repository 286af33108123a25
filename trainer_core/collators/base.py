"""The base of all collators."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from trainer_core.collators.sample_error import SampleError
from trainer_core.errors import DataError
from trainer_core.types import Batch, RawSample

IGNORED_LABEL = -100
"""Label of a token that is not learned; what transformers' losses ignore."""


class BaseCollator(ABC):
    """Turns samples into a batch.

    `labels` stand at the same position as their tokens: the model shifts them by one itself, so that the label of a
    row's first token is never used. A position that is not learned holds -100.
    """

    default_must_have_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that every sample must have when the constructor is not told otherwise."""
    default_batch_must_have_keys: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask", "labels")
    """Keys that every batch must have when the constructor is not told otherwise."""

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        separator: str = "\n",
        *,
        must_have_keys: Sequence[str] | None = None,
        batch_must_have_keys: Sequence[str] | None = None,
    ) -> None:
        """`max_length` in tokens. The keys None: as the class says; a subclass may add to the lists afterwards."""
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.separator = separator
        self.must_have_keys = list(self.default_must_have_keys if must_have_keys is None else must_have_keys)
        self.batch_must_have_keys = list(
            self.default_batch_must_have_keys if batch_must_have_keys is None else batch_must_have_keys
        )

    @abstractmethod
    def parse_batch(self, raw_batch: list[RawSample]) -> Batch:
        """The batch of these samples."""

    def __call__(self, raw_batch: list[RawSample]) -> Batch:
        """Raises SampleError for a sample, and DataError for a batch, without its must-have keys."""
        self.check_samples(raw_batch)
        batch = self.parse_batch(raw_batch)
        required = getattr(self, "batch_must_have_keys", self.default_batch_must_have_keys)
        if missing := [key for key in required if key not in batch]:
            names = ", ".join(repr(key) for key in missing)
            raise DataError(f"{type(self).__name__} made a batch without {names}", param="collator_key")
        return batch

    def check_samples(self, raw_batch: Sequence[RawSample]) -> None:
        """Raises SampleError naming the class and the keys that a sample lacks."""
        required = getattr(self, "must_have_keys", self.default_must_have_keys)
        for position, sample in enumerate(raw_batch):
            if missing := [key for key in required if key not in sample]:
                names = ", ".join(repr(key) for key in missing)
                raise SampleError(f"{type(self).__name__} needs {names}", position=position)
