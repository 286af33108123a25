"""Encoding of texts with the special tokens kept apart, for any tokenizer: with a BOS, without one, with an EOS."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer_core.errors import ModelLoadError

PROBE = "a"


@dataclass(frozen=True, slots=True)
class SpecialAffixes:
    """Token ids that a tokenizer puts around a text."""

    leading: tuple[int, ...]
    trailing: tuple[int, ...]


def find_special_affixes(tokenizer: Any) -> SpecialAffixes:
    """Asks the tokenizer by encoding a text with and without its special tokens.

    Raises ModelLoadError for a tokenizer whose special tokens change how the text itself is encoded.
    """
    plain = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    full = tokenizer(PROBE, add_special_tokens=True)["input_ids"]
    if not plain:
        # The probe means nothing to this vocabulary: what ends a text is then known by its meaning alone.
        num_trailing = int(bool(full) and full[-1] == tokenizer.eos_token_id)
        return SpecialAffixes(tuple(full[: len(full) - num_trailing]), tuple(full[len(full) - num_trailing :]))
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return SpecialAffixes(leading=tuple(full[:start]), trailing=tuple(full[start + len(plain) :]))
    raise ModelLoadError(
        f"the tokenizer {tokenizer.name_or_path!r} encodes a text differently when it adds its special tokens",
        param="tokenizer_name_or_path",
    )


def encode_texts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without the special tokens around it, not cut."""
    if not texts:
        return []
    encoded = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def count_tokens_of_start(tokenizer: Any, *, start: str, whole_ids: Sequence[int]) -> int:
    """How many of a text's tokens belong to its `start` alone.

    A token that reaches beyond the start is not counted: it carries what follows.
    """
    (start_ids,) = encode_texts(tokenizer, [start])
    num_common = 0
    for start_id, whole_id in zip(start_ids, whole_ids, strict=False):
        if start_id != whole_id:
            break
        num_common += 1
    return num_common
