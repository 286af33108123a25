"""Removes the workspaces of jobs that are over and ended elsewhere: on another host, or while no worker had them."""

import logging
import threading

from app.ids import is_id
from app.jobs.service import JobService
from app.settings import Settings
from trainer_core.workspace import Workspace
from worker.workspaces import WORKSPACES_FOLDER, remove_folder, set_aside

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS = 600.0
_OVER_SECONDS = 3600.0
"""How long a job must be over: one that is retried sooner finds what it had here."""


class WorkspaceSweep:
    """A thread of the worker's main process. A database that is away is asked again at the next round."""

    def __init__(self, jobs: JobService, settings: Settings) -> None:
        self._jobs = jobs
        self._folder = settings.data_dir / WORKSPACES_FOLDER
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workspace-sweep", daemon=True)

    def start(self) -> None:
        """Starts with a round at once."""
        self._thread.start()

    def stop(self) -> None:
        """Lets the thread end after the folder that it is at."""
        self._stopped.set()

    def sweep(self) -> list[str]:
        """One round; returns the jobs whose workspaces were removed. Raises the database's errors."""
        present = sorted(path.name for path in self._folder.glob("job-*") if is_id(path.name, "job"))
        over = self._jobs.list_over(present, over_seconds=_OVER_SECONDS) if present else []
        for job_id in over:
            if self._stopped.is_set():
                break
            aside = set_aside(Workspace(self._folder / job_id))
            if aside is not None:
                remove_folder(aside)
        return over

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self.sweep()
            # Whatever a database or its driver raises while it is away.
            except Exception as error:  # noqa: BLE001
                logger.warning("workspaces are not swept now: %s", error)
            self._stopped.wait(_INTERVAL_SECONDS)
