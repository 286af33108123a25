"""The collator that learns the last part of a sample, given the parts before it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from trainer_core.collators.encoded_sample import EncodedSample, encode_sample
from trainer_core.collators.text_parts import get_text_parts
from trainer_core.collators.token_collator import TokenCollator
from trainer_core.tokenizers.text_encoding import count_tokens_of_start, encode_texts, find_special_affixes
from trainer_core.types import RawSample


class CompletionCollator(TokenCollator):
    """Ends every part with the separator, encodes each part by itself, and learns the last one.

    The separator after the last part is learned too: it is where a model stops. Only the first part gets the special
    tokens that the tokenizer puts in front of a text.
    """

    default_must_have_keys: ClassVar[tuple[str, ...]] = ("text_parts",)
    gives_same_tokens: ClassVar[bool] = True

    def __init__(
        self, tokenizer: Any, max_length: int, separator: str = "\n", prefix_end: str | None = None, **kwargs: Any
    ) -> None:
        """`prefix_end`: of the last part only what follows its first occurrence is learned. None, or not found: all."""
        super().__init__(tokenizer, max_length, separator, **kwargs)
        self.prefix_end = prefix_end
        self._affixes = find_special_affixes(tokenizer)

    def encode_whole(self, raw_batch: Sequence[RawSample]) -> list[tuple[EncodedSample, int]]:
        """The tokens of the parts, one after another."""
        samples = [get_text_parts(sample, position=position) for position, sample in enumerate(raw_batch)]
        encoded_parts = iter(
            encode_texts(self.tokenizer, [part + self.separator for parts in samples for part in parts])
        )
        return [self._join(parts, encoded_parts) for parts in samples]

    def _join(self, parts: Sequence[str], encoded_parts: Iterator[list[int]]) -> tuple[EncodedSample, int]:
        leading, trailing = self._affixes.leading, self._affixes.trailing
        input_ids = [*leading]
        for _ in parts[:-1]:
            input_ids += [*next(encoded_parts), *trailing]
        last = next(encoded_parts)
        num_masked = len(input_ids) + self._count_prefix_tokens(parts[-1], last)
        input_ids += [*last, *trailing]
        is_target = [index >= num_masked for index in range(len(input_ids))]
        is_without_prefix_end = self.prefix_end is not None and self.prefix_end not in parts[-1]
        sample = replace(encode_sample(input_ids, is_target), is_without_prefix_end=is_without_prefix_end)
        return sample, len(leading)

    def _count_prefix_tokens(self, part: str, part_ids: list[int]) -> int:
        if self.prefix_end is None or self.prefix_end not in part:
            return 0
        prefix = part[: part.index(self.prefix_end) + len(self.prefix_end)]
        return count_tokens_of_start(self.tokenizer, start=prefix, whole_ids=part_ids)
