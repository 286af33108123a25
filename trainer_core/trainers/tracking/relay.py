"""A tracker that runs in another process: a job's training has neither its key nor a network."""

from collections.abc import Mapping
from pathlib import Path

from trainer_core.attempt.tracking_relay import TrackingRecord, append_record
from trainer_core.trainers.tracking.base import TrackedRun


class RelayTracker:
    """Writes down what the tracker of this name is told, for `trainer_core.track_main` to tell it."""

    def __init__(self, run: TrackedRun, *, name: str, path: Path) -> None:
        self.name = name
        self._run = run
        self._path = path

    def start(self) -> str:
        """Begins the run; where it can be seen the other process tells."""
        run = self._run
        described = {"config": dict(run.config), "project": run.project, "run_name": run.run_name, "entity": run.entity}
        append_record(self._path, TrackingRecord("start", self.name, run=described))
        return ""

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Hands the metrics of an optimizer step on."""
        append_record(self._path, TrackingRecord("log", self.name, metrics=metrics, step=step))

    def finish(self, *, has_succeeded: bool) -> None:
        """Ends the run."""
        append_record(self._path, TrackingRecord("finish", self.name, has_succeeded=has_succeeded))
