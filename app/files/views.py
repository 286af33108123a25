"""What the file service answers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FileView:
    """An uploaded file; `num_samples` is the number of its lines."""

    id: str
    filename: str
    purpose: str
    num_bytes: int
    num_samples: int
    sha256: str
    storage_key: str
    created_at: float
