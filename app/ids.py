"""Identifiers: a prefix and 26 lower-case characters that sort by the time they were made."""

import re
import secrets
import time
from typing import Literal

IdPrefix = Literal["job", "file", "wrk", "key", "art", "preview", "sec", "rem", "webhook", "msg"]

# Crockford's base 32, lower case: its order as text is its order as a number.
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_NUM_CHARS = 26
_NUM_RANDOM_BITS = 66
_ID_PATTERN = re.compile(rf"(job|file|wrk|key|art|preview|sec|rem|webhook|msg)-[{_ALPHABET}]{{{_NUM_CHARS}}}")


def new_id(prefix: IdPrefix) -> str:
    """A new identifier: 64 bits of nanoseconds since 1970, then 66 random bits."""
    number = (time.time_ns() << _NUM_RANDOM_BITS) | secrets.randbits(_NUM_RANDOM_BITS)
    digits = [_ALPHABET[(number >> shift) & 31] for shift in range(5 * (_NUM_CHARS - 1), -1, -5)]
    return f"{prefix}-{''.join(digits)}"


def is_id(text: str, prefix: IdPrefix) -> bool:
    """True when `text` has the shape of an identifier with this prefix; says nothing about its existence."""
    return text.startswith(f"{prefix}-") and _ID_PATTERN.fullmatch(text) is not None
