"""What every database and every answer can hold: finite numbers, and text without NUL or lone surrogates."""

import math
import re
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

_BAD_TEXT = re.compile("[\0\ud800-\udfff]")


def make_storable(value: object) -> JsonValue:
    """The value as JSON: NaN and infinities become null, bad characters U+FFFD, anything else its text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return make_text_storable(value)
    if isinstance(value, Mapping):
        return {make_text_storable(str(key)): make_storable(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [make_storable(item) for item in value]
    return make_text_storable(str(value))


def make_text_storable(text: str) -> str:
    """The text with bad characters replaced by U+FFFD."""
    return _BAD_TEXT.sub("\ufffd", text)


def is_storable_text(text: str) -> bool:
    """True when the text has no NUL and no lone surrogate."""
    return _BAD_TEXT.search(text) is None
