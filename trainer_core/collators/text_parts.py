"""Reading of a sample's `text_parts`."""

from typing import Any

from trainer_core.collators.sample_error import SampleError
from trainer_core.types import RawSample


def get_text_parts(sample: RawSample, *, position: int) -> list[str]:
    """The parts as texts; a text or a number alone is one part.

    Raises SampleError, for the sample at `position` of its batch, when there is no part or one is no text.
    """
    parts: Any = sample["text_parts"]
    if isinstance(parts, str | int | float):
        parts = [parts]
    if not isinstance(parts, list | tuple):
        raise SampleError(f"'text_parts' must be a list of texts, not {type(parts).__name__}", position=position)
    if not parts:
        raise SampleError("'text_parts' is empty", position=position)
    for part in parts:
        if isinstance(part, bool) or not isinstance(part, str | int | float):
            reason = f"'text_parts' holds {type(part).__name__}, not only texts"
            raise SampleError(reason, position=position)
    return [str(part) for part in parts]
