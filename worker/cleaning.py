"""Removes from this host the workspaces of jobs that ended elsewhere, or that were deleted."""

import logging
import random
import threading
from collections.abc import Callable, Sequence

from app.settings import Settings
from worker.workspaces import list_idle_workspaces, remove_folder, set_aside

logger = logging.getLogger(__name__)

_ROUND_SECONDS = 3600.0
_IDLE_SECONDS = 3600.0
"""A job that ended may be retried: its workspace is left alone while that is likely."""


class CleaningThread:
    """Looks about once an hour. `find_unfinished` says which jobs still need their workspace."""

    def __init__(self, settings: Settings, *, find_unfinished: Callable[[Sequence[str]], set[str]]) -> None:
        self._settings = settings
        self._find_unfinished = find_unfinished
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cleaning", daemon=True)

    def start(self) -> None:
        """Begins to look, the first time within a minute."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it soon; returns at once."""
        self._stop.set()

    def clean(self, *, idle_seconds: float = _IDLE_SECONDS) -> list[str]:
        """Removes what nobody needs; returns the jobs' ids. Raises the database's errors."""
        idle = {each.root.name: each for each in list_idle_workspaces(self._settings, idle_seconds=idle_seconds)}
        if not idle:
            return []
        removed = sorted(set(idle) - self._find_unfinished(sorted(idle)))
        for job_id in removed:
            aside = set_aside(idle[job_id])
            if aside is not None:
                remove_folder(aside)
                logger.info("removed the workspace of %s, which has ended or was deleted", job_id)
        return removed

    def _run(self) -> None:
        pause_seconds = random.uniform(0, 60)
        while not self._stop.wait(pause_seconds):
            pause_seconds = _ROUND_SECONDS * random.uniform(0.9, 1.1)
            try:
                self.clean()
            # Whatever a database or its driver raises while it is away: there is time.
            except Exception as error:  # noqa: BLE001
                logger.warning("workspaces are not looked through: %s: %s", type(error).__name__, error)
