"""What a tracker does, and what it is told about a run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trainer_core.types import JsonValue


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """A training as a tracker shows it."""

    folder: Path
    """Where the tracker may write: the training's own folder, each tracker in one below it."""
    config: Mapping[str, JsonValue]
    """The Config without secrets and without the host's paths."""
    project: str | None
    run_name: str | None
    entity: str | None = None
    api_key: str | None = field(default=None, repr=False)


class Tracker(Protocol):
    """Called by one thread only, `start` first, `finish` last; what it raises ends the tracking, not the training."""

    name: str

    def start(self) -> str:
        """Begins the run and returns where it can be seen, for an event; empty when somebody else tells."""
        ...

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Takes the metrics of an optimizer step, named as `train/loss` and `eval/loss`."""
        ...

    def finish(self, *, has_succeeded: bool) -> None:
        """Ends the run, waiting for what has not been sent for a limited time only."""
        ...
