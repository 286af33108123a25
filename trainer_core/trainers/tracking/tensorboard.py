"""TensorBoard's event files."""

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from trainer_core.trainers.tracking.base import TrackedRun


class TensorboardTracker:
    """One run, in a folder of its name, else of the time, in `runs` below the training's folder."""

    name = "tensorboard"

    def __init__(self, run: TrackedRun) -> None:
        self._description = run
        self._writer: Any = None

    def start(self) -> str:
        """Opens the file and writes the Config as text."""
        from torch.utils.tensorboard import SummaryWriter

        run = self._description
        name = re.sub(r"[^\w.-]+", "_", run.run_name or "").strip(".") or time.strftime("%Y-%m-%d_%H-%M-%S")
        folder = run.folder / "runs" / name
        self._writer = SummaryWriter(log_dir=str(folder))
        self._writer.add_text("config", json.dumps(dict(run.config), indent=2))
        return str(folder)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Writes the metrics so that a reader sees them at once."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, *, has_succeeded: bool) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
