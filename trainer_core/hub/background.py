"""Pushing of checkpoints while a script trains on: one thread, the newest wins."""

import shutil
import threading
from pathlib import Path

from trainer_core.context import EventSink
from trainer_core.errors import TrainerError
from trainer_core.hub.files import snapshot_push_files
from trainer_core.hub.script import ScriptPusher


class BackgroundPusher:
    """Takes whole checkpoints; a push that fails is a warning, and one that waits gives way to a newer checkpoint."""

    def __init__(self, pusher: ScriptPusher, *, events: EventSink) -> None:
        self._pusher = pusher
        self._events = events
        self._waiting: tuple[Path, int] | None = None
        self._is_finishing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="checkpoint-push", daemon=True)
        self._thread.start()

    def submit(self, folder: Path, *, global_step: int) -> None:
        """Takes a checkpoint, which may be deleted as soon as this returns: what is pushed is linked beside it."""
        snapshot = snapshot_push_files(folder, into=folder.with_name(f".pushing-{folder.name}"))
        with self._changed:
            replaced, self._waiting = self._waiting, (snapshot, global_step)
            self._changed.notify()
        if replaced is not None:
            shutil.rmtree(replaced[0], ignore_errors=True)

    def finish(self, *, waits: bool = True) -> None:
        """Drops what waits, since the result is about to be pushed, and waits for the push that runs."""
        with self._changed:
            dropped, self._waiting = self._waiting, None
            self._is_finishing = True
            self._changed.notify()
        if dropped is not None:
            shutil.rmtree(dropped[0], ignore_errors=True)
        if waits:
            self._thread.join()

    def _run(self) -> None:
        while (item := self._take()) is not None:
            folder, global_step = item
            try:
                self._pusher.push_checkpoint(folder, global_step=global_step, events=self._events)
            except (TrainerError, OSError) as error:
                message = f"the checkpoint of step {global_step} is not pushed: {error}; the training goes on"
                data = {"param": getattr(error, "param", None)}
                self._events.emit("warning", level="warning", message=message, data=data)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _take(self) -> tuple[Path, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._is_finishing)
            item, self._waiting = self._waiting, None
            return item
