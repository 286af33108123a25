"""Shows a job's progress as a bar on a terminal; needs rich (`finesmith[cli]`)."""

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from finesmith.models.job import Job
from finesmith.progress.describe import describe_place, describe_training


class BarView:
    """One line that is redrawn: status and step, a bar over the optimizer steps, loss, tokens/s and time left."""

    interval_seconds = 1.0

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[job_id]}  {task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[training]}", markup=False),
            TimeElapsedColumn(),
            console=console,
        )
        self._task_id = self._progress.add_task("", total=None, job_id="", training="")
        self._progress.start()

    def show(self, job: Job) -> None:
        """Redraws the line."""
        # Outside of training there is nothing to count: an unbounded bar says that something goes on.
        is_counted = job.is_finished or job.step == "train"
        total = job.progress.total_steps if is_counted else None
        self._progress.update(
            self._task_id,
            description=describe_place(job),
            total=total,
            completed=job.progress.global_step or 0,
            job_id=job.id,
            training=describe_training(job),
        )

    def close(self) -> None:
        """Leaves the last line standing."""
        self._progress.stop()
