"""A file that a job produced."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from finesmith.wire import JsonValue


@dataclass(frozen=True)
class Artifact:
    """One file of a job's results."""

    path: str
    """Path within the job's artifacts, with `/`, such as `fused/model.safetensors`."""
    bytes: int
    """Size in bytes."""
    sha256: str
    """Lower-case hexadecimal digest of the content."""
    id: str | None = None
    """The service's id of the file."""
    name: str | None = None
    """The folder that it belongs to: `data`, `adapter`, `model`, `fused` or `quantized`."""
    created_at: float | None = None
    """When it was published, in Unix seconds."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields that this version of the SDK does not know."""
