"""Batches of samples that are tokens already."""

from collections.abc import Callable, Sequence
from functools import partial

from trainer_core.collators.token_collator import TokenCollator, pad_samples
from trainer_core.tokenized.sample import TokenizedSample
from trainer_core.types import Batch


def collate_tokenized(samples: Sequence[TokenizedSample], *, pad_token_id: int, side: str) -> Batch:
    """The batch that the collator makes of the same samples as texts: int64, of shape (samples, longest sample)."""
    return pad_samples(samples, pad_token_id=pad_token_id, side=side)


def build_collate(collator: TokenCollator) -> Callable[[Sequence[TokenizedSample]], Batch]:
    """`collate_tokenized` as this collator pads; it holds no tokenizer, so that loader processes get little."""
    return partial(collate_tokenized, pad_token_id=collator.pad_token_id, side=str(collator.tokenizer.padding_side))
