"""The text of each token of a sequence, so that the pieces give the whole when they are joined."""

from collections.abc import Sequence
from typing import Any

INCOMPLETE = "\ufffd"
"""What a decoder answers for bytes that are no whole character yet."""
NUM_TOKENS_HELD = 16
"""A character of UTF-8 has 4 bytes; what is incomplete after so many tokens stays so."""
NUM_CONTEXT_TOKENS = 4
"""Tokens decoded again before each piece, so that decoders which strip the start of a text strip nothing."""


def split_into_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """One text a token; a character of several tokens stands at the last of them, and the others are empty."""
    pieces: list[str] = []
    context_start = start = 0
    for end in range(1, len(ids) + 1):
        before = _decode(tokenizer, ids[context_start:start])
        through = _decode(tokenizer, ids[context_start:end])
        is_incomplete = through.endswith(INCOMPLETE) and end < len(ids) and end - start < NUM_TOKENS_HELD
        if is_incomplete:
            pieces.append("")
            continue
        pieces.append(through[len(before) :])
        start = end
        context_start = max(0, start - NUM_CONTEXT_TOKENS)
    return pieces


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
