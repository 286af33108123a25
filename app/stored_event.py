"""An event as the database numbered it: what streams carry and clients are told."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event with the number that the database gave it; numbers of one job have no holes and start at 1."""

    job_id: str
    seq: int
    attempt: int
    type: str
    step: str | None
    level: str
    message: str
    data: Mapping[str, JsonValue]
    created_at: float
