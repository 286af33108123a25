"""What the preview service takes and answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import JsonValue

from app.jobs.views import FileRef, JobError


class PreviewStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


FINAL_PREVIEW_STATUSES = frozenset({PreviewStatus.SUCCEEDED, PreviewStatus.FAILED})


@dataclass(frozen=True, slots=True)
class PreviewRequest:
    """The body of `POST /v1/previews`: render the first `num_samples` rows of a file as the config would."""

    config: Mapping[str, object] = field(repr=False)
    file_id: str
    num_samples: int


@dataclass(frozen=True, slots=True)
class PreviewView:
    """A preview as its owner sees it. Times are unix seconds; secrets in `config` are None."""

    id: str
    status: PreviewStatus
    file_id: str
    num_samples: int
    config: Mapping[str, JsonValue]
    result: Mapping[str, JsonValue] | None = field(repr=False)
    """What the worker rendered; None before, and of one that failed."""
    error: JobError | None
    created_at: float
    started_at: float | None
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class PreviewClaim:
    """A preview that is now the claimer's to render; `attempt` is its fence."""

    preview_id: str
    owner: str
    attempt: int
    config: Mapping[str, JsonValue]
    secrets: Mapping[str, str] = field(repr=False)
    file: FileRef
    num_rows: int
    """Of the whole file."""
    num_samples: int
