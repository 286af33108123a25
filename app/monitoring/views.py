"""Figures of the whole installation, the same whichever server is asked."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.jobs.workers import WorkerView


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """The queued jobs of one class of priority."""

    num_jobs: int
    oldest_age_seconds: float
    """Of the job that could have begun for longest; 0 when none waits."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What the running jobs of one worker do in one step, together."""

    worker_id: str
    step: str
    tokens_per_second: float


@dataclass(frozen=True, slots=True)
class InstallationFigures:
    """All of it as of one moment."""

    jobs: Mapping[str, int]
    """Number of jobs by state; a state without jobs may be missing."""
    queue: Mapping[str, QueueFigures]
    """By class of priority: low, normal, high."""
    speeds: tuple[Speed, ...]
    workers: tuple[WorkerView, ...]
    """Those that were seen in the last 24 hours."""
    counters: Mapping[str, int]
    """Totals by name, as `app/jobs/counter_names.py` names them."""
    num_pending_deliveries: int
    """Webhook messages that are not delivered yet."""
