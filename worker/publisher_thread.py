"""Publishes beside the running job, so that an upload of an hour keeps no event waiting."""

import logging
import queue
from pathlib import Path

from app.context_thread import ContextThread
from app.jobs.errors import LeaseLost
from trainer_core.enums import Step
from trainer_core.events import EventRecord
from trainer_core.workspace import Workspace
from worker.lease_keeper import LeaseKeeper
from worker.publishing import Publisher

logger = logging.getLogger(__name__)

_STEP_EVENTS = frozenset({"step.finished", "step.skipped"})


class PublisherThread:
    """Follows the events of a job and publishes what they tell of. What fails here is done again at the end."""

    def __init__(self, publisher: Publisher, *, workspace: Workspace, keeper: LeaseKeeper) -> None:
        self._publisher = publisher
        self._workspace = workspace
        self._keeper = keeper
        self._work: queue.SimpleQueue[Step | Path | None] = queue.SimpleQueue()
        self._thread = ContextThread(target=self._run, name="publisher", daemon=True)

    def start(self) -> None:
        """Starts to publish."""
        self._thread.start()

    def follow(self, event: EventRecord) -> None:
        """Queues what the event tells of, if it tells of something to publish."""
        if event.type in _STEP_EVENTS and event.step in set(Step):
            self._work.put(Step(event.step))
        elif event.type == "checkpoint.saved" and event.data is not None:
            folder = self._find_checkpoint(event.data.get("path"))
            if folder is not None:
                self._work.put(folder)

    def finish(self) -> None:
        """Waits until all that was queued is published or has failed."""
        self._work.put(None)
        self._thread.join()

    def abandon(self) -> None:
        """Lets the thread end by itself after what it is at."""
        self._work.put(None)

    def _find_checkpoint(self, path: object) -> Path | None:
        """The path comes from a step, which runs users' code: only a folder of the job's own outputs will do."""
        folder = self._workspace.root / str(path)
        return folder if folder.parent == self._workspace.outputs else None

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            if self._keeper.is_lost:
                continue
            try:
                if isinstance(item, Step):
                    self._publisher.publish_step(item)
                else:
                    self._publisher.publish_checkpoint(item)
            except LeaseLost:
                self._keeper.mark_lost()
            # Storage and database raise what their libraries raise; the end of the job tries once more, and tells.
            except Exception as error:  # noqa: BLE001
                logger.warning("%s is not published yet: %s: %s", item, type(error).__name__, error)
