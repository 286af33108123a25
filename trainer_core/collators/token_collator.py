"""The base of the built-in collators: samples become tokens first, tensors last."""

from abc import abstractmethod
from collections.abc import Sequence

import torch

from trainer_core.collators.base import IGNORED_LABEL, BaseCollator
from trainer_core.collators.encoded_sample import EncodedSample, fit_to_length
from trainer_core.collators.sample_error import SampleError
from trainer_core.types import Batch, RawSample


class TokenCollator(BaseCollator):
    """Pads encoded samples to the longest of the batch, on the tokenizer's padding side.

    What is padding is known by position, not by token: where padding and end of text are one token, a real end of
    text is still learned.
    """

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
        return pad_samples(self.encode(raw_batch), pad_token_id=self.pad_token_id, side=self.tokenizer.padding_side)

    @property
    def pad_token_id(self) -> int:
        """What rows are filled up with; such tokens are neither attended to nor learned."""
        for token_id in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if token_id is not None:
                return int(token_id)
        return 0


def pad_samples(samples: Sequence[EncodedSample], *, pad_token_id: int, side: str) -> Batch:
    """Tensors of shape (samples, longest sample); `side` is left or right, and anything else counts as right."""
    shape = (len(samples), max((len(sample.input_ids) for sample in samples), default=0))
    input_ids = torch.full(shape, pad_token_id, dtype=torch.long)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED_LABEL, dtype=torch.long)
    for row, sample in enumerate(samples):
        length = len(sample.input_ids)
        place = slice(shape[1] - length, shape[1]) if side == "left" else slice(0, length)
        ids = torch.tensor(sample.input_ids, dtype=torch.long)
        input_ids[row, place] = ids
        attention_mask[row, place] = 1
        labels[row, place] = ids.masked_fill(~torch.tensor(sample.is_target, dtype=torch.bool), IGNORED_LABEL)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def _describe_nothing_to_learn(sample: EncodedSample, fitted: EncodedSample) -> str:
    if sample.num_targets:
        return f"nothing to learn is left of its {len(sample.input_ids)} tokens: max_length is too small"
    return f"there is nothing to learn in its {len(fitted.input_ids)} tokens"
