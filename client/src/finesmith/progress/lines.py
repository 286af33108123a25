"""Shows a job's progress as lines, for logs and where rich is not installed."""

import time
from typing import TextIO

from finesmith.models.job import Job
from finesmith.progress.describe import describe_place, describe_training

LINE_INTERVAL_SECONDS = 10.0


class LinesView:
    """Writes a line when status or step change, and one every 10 s while training goes on."""

    interval_seconds = 2.0

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._place = ""
        self._training = ""
        self._written_at = 0.0

    def show(self, job: Job) -> None:
        """Writes at most one line."""
        place, training = describe_place(job), describe_training(job)
        is_due = time.monotonic() - self._written_at >= LINE_INTERVAL_SECONDS
        if place == self._place and (training == self._training or not is_due):
            return
        self._place, self._training, self._written_at = place, training, time.monotonic()
        self._stream.write(f"{job.id}  {place}" + (f"  {training}" if training else "") + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing to tidy up."""
