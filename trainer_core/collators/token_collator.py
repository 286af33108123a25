"""The base of the built-in collators: samples become tokens first, tensors last."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch

from trainer_core.collators.base import IGNORED_LABEL, BaseCollator
from trainer_core.collators.encoded_sample import EncodedSample, fit_to_length
from trainer_core.collators.sample_error import SampleError
from trainer_core.types import Batch, RawSample

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TokenCollator(BaseCollator):
    """Pads encoded samples to the longest of the batch, on the tokenizer's padding side.

    What is padding is known by position, not by token: where padding and end of text are one token, a real end of
    text is still learned.
    """

    gives_same_tokens: ClassVar[bool] = False
    """Whether a sample gives the same tokens each time, so that it may be tokenised once and kept. Not inherited: a
    subclass, which may draw at random, says so itself."""

    @abstractmethod
    def encode_whole(self, raw_batch: Sequence[RawSample]) -> list[tuple[EncodedSample, int]]:
        """Each sample's tokens, not cut, and how many of them are leading special tokens. May raise SampleError."""

    def encode(self, raw_batch: Sequence[RawSample]) -> list[EncodedSample]:
        """Each sample's tokens, cut to `max_length`. Raises SampleError for one with nothing to learn."""
        encoded = []
        for position, (sample, num_leading) in enumerate(self.encode_whole(raw_batch)):
            fitted = fit_to_length(sample, max_length=self.max_length, num_leading=num_leading)
            if not fitted.num_targets:
                reason = _describe_nothing_to_learn(sample, fitted)
                raise SampleError(reason, position=position, is_without_target=True)
            encoded.append(fitted)
        return encoded

    def parse_batch(self, raw_batch: list[RawSample]) -> Batch:
        """`input_ids`, `attention_mask` and `labels`, each int64 of shape (samples, longest sample)."""
        return self.pad(self.encode(raw_batch))

    def tokenize(self, samples: Sequence[Any]) -> Sequence[Any]:
        """Each sample's tokens; of samples that are UnpaddedSamples already, these. Raises SampleError."""
        if hasattr(samples[0], "is_target"):
            return samples
        raw_batch = list(samples)
        self.check_samples(raw_batch)
        return self.encode(raw_batch)

    def pad(self, samples: Sequence[Any]) -> Batch:
        """The batch of `parse_batch`, also of samples that are tokens already."""
        side = str(self.tokenizer.padding_side)
        return pad_samples(self.tokenize(samples), pad_token_id=self.pad_token_id, side=side)

    @property
    def pad_token_id(self) -> int:
        """What rows are filled up with; such tokens are neither attended to nor learned."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0


class UnpaddedSample(Protocol):
    """A sample's tokens, as lists or as arrays of numpy."""

    @property
    def input_ids(self) -> "Sequence[int] | NDArray[np.int32]":
        """Token ids."""
        ...

    @property
    def is_target(self) -> "Sequence[bool] | NDArray[np.bool_]":
        """Whether each token is learned."""
        ...


def pad_samples(samples: Sequence[UnpaddedSample], *, pad_token_id: int, side: str) -> Batch:
    """Tensors of shape (samples, longest sample); `side` is left or right, and anything else counts as right."""
    lengths = [len(sample.input_ids) for sample in samples]
    shape = (len(samples), max(lengths, default=0))
    input_ids = np.full(shape, pad_token_id, dtype=np.int64)
    attention_mask = np.zeros(shape, dtype=np.int64)
    labels = np.full(shape, IGNORED_LABEL, dtype=np.int64)
    for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
        place = slice(shape[1] - length, shape[1]) if side == "left" else slice(0, length)
        input_ids[row, place] = sample.input_ids
        attention_mask[row, place] = 1
        np.copyto(labels[row, place], input_ids[row, place], where=np.asarray(sample.is_target, dtype=np.bool_))
    return {
        "input_ids": torch.from_numpy(input_ids),
        "attention_mask": torch.from_numpy(attention_mask),
        "labels": torch.from_numpy(labels),
    }


def _describe_nothing_to_learn(sample: EncodedSample, fitted: EncodedSample) -> str:
    if sample.num_targets:
        return f"nothing to learn is left of its {len(sample.input_ids)} tokens: max_length is too small"
    return f"there is nothing to learn in its {len(fitted.input_ids)} tokens"
