"""The collator of plain language modelling."""

from collections.abc import Sequence
from typing import Any, ClassVar

from trainer_core.collators.encoded_sample import EncodedSample, encode_sample
from trainer_core.collators.text_parts import get_text_parts
from trainer_core.collators.token_collator import TokenCollator
from trainer_core.tokenizers.text_encoding import encode_texts, find_special_affixes
from trainer_core.types import RawSample


class LMCollator(TokenCollator):
    """Joins a sample's parts by the separator and learns every token of the text.

    Nothing is added but the special tokens that the tokenizer itself puts around a text: where it ends none, a document
    that is to end in an end-of-text token holds that token's text.
    """

    default_must_have_keys: ClassVar[tuple[str, ...]] = ("text_parts",)
    gives_same_tokens: ClassVar[bool] = True

    def __init__(self, tokenizer: Any, max_length: int, separator: str = "\n", **kwargs: Any) -> None:
        super().__init__(tokenizer, max_length, separator, **kwargs)
        self._affixes = find_special_affixes(tokenizer)

    def encode_whole(self, raw_batch: Sequence[RawSample]) -> list[tuple[EncodedSample, int]]:
        """The tokens that the tokenizer gives for the joined text; its leading special tokens are no targets."""
        texts = [
            self.separator.join(get_text_parts(sample, position=position)) for position, sample in enumerate(raw_batch)
        ]
        leading, trailing = self._affixes.leading, self._affixes.trailing
        encoded = []
        for ids in encode_texts(self.tokenizer, texts):
            is_target = [False] * len(leading) + [True] * (len(ids) + len(trailing))
            encoded.append((encode_sample([*leading, *ids, *trailing], is_target), len(leading)))
        return encoded
