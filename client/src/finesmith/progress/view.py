"""What `wait` asks of whatever shows a job's progress."""

from typing import Protocol

from finesmith.models.job import Job


class ProgressView(Protocol):
    """Shows a job as it goes. Used by one thread, closed once."""

    interval_seconds: float
    """How often it wants to be shown a job whose state does not change."""

    def show(self, job: Job) -> None:
        """Shows the job as it is now; called also when nothing has changed."""

    def close(self) -> None:
        """Leaves the terminal as it should stay."""


class SilentView:
    """Shows nothing."""

    interval_seconds = 20.0

    def show(self, job: Job) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""
