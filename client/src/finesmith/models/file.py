"""A data set that was uploaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finesmith.wire import JsonValue


@dataclass(frozen=True)
class File:
    """An uploaded file."""

    id: str
    """`file-…`: what `training_file` takes."""
    filename: str = ""
    """The name under which it was uploaded."""
    bytes: int | None = None
    """Size in bytes."""
    purpose: str = "fine-tune"
    """What it is for; always `fine-tune` today."""
    created_at: float | None = None
    """When it was uploaded, in Unix seconds."""
    sha256: str | None = None
    """Lower-case hexadecimal digest of the content; None if the service does not tell it."""
    num_samples: int | None = None
    """How many lines, each a JSON object, it holds; None if the service does not tell."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields that this version of the SDK does not know."""
