"""Feeds one tracker in a thread of its own: a slow or dead tracker holds nothing up."""

import queue
import threading
from collections.abc import Callable, Mapping

from trainer_core.context import EventSink
from trainer_core.trainers.tracking.base import Tracker
from trainer_core.types import JsonValue

_CLOSE_SECONDS = 90.0
"""How long the end of a training may wait for a tracker: longer than a tracker's own limit."""


class TrackerFeed:
    """Hands metrics to a tracker. What the tracker raises is told once, as a warning, and ends the tracking.

    All methods are called by the training's thread, which also tells the events: their sink is made for one.
    """

    def __init__(self, tracker: Tracker, *, events: EventSink, clean: Callable[[str], str]) -> None:
        """`clean` removes secrets from what a tracker's library says."""
        self._tracker = tracker
        self._events = events
        self._clean = clean
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._notices: queue.SimpleQueue[tuple[bool, str]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._has_failed = False

    def start(self) -> None:
        """Begins the run, unless it has begun."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"tracker-{self._tracker.name}", daemon=True)
            self._thread.start()
            self._tasks.put(self._start)

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Queues the metrics of a step, and tells what the tracker had to say."""
        if self._thread is not None and metrics:
            self._tasks.put(lambda: self._tracker.log(metrics, step=step))
        self._tell_notices()

    def close(self, *, has_succeeded: bool) -> None:
        """Ends the run and waits for what is under way, for a limited time; once."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._tasks.put(lambda: self._tracker.finish(has_succeeded=has_succeeded))
        self._tasks.put(None)
        thread.join(_CLOSE_SECONDS)
        self._tell_notices()
        if thread.is_alive():
            self._tell(
                True, f"{self._tracker.name} did not take everything in {_CLOSE_SECONDS:.0f} s; the rest is lost"
            )

    def _start(self) -> None:
        where = self._tracker.start()
        problem = getattr(self._tracker, "problem", None)
        if problem is not None:
            message = f"{problem}: the run is kept offline, to be sent with `wandb sync`"
            self._notices.put((True, f"{self._tracker.name}: {message}"))
        if where:
            self._notices.put((False, f"reports to {self._tracker.name}: {where}"))

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._has_failed:
                continue
            try:
                task()
            # A tracker is a network and three libraries: nothing that they raise may end a training.
            except Exception as error:  # noqa: BLE001
                self._has_failed = True
                reason = f"{type(error).__name__}: {error}"[:500]
                self._notices.put((True, f"{self._tracker.name} has failed, and gets no more metrics: {reason}"))

    def _tell_notices(self) -> None:
        while not self._notices.empty():
            is_warning, message = self._notices.get()
            self._tell(is_warning, message)

    def _tell(self, is_warning: bool, message: str) -> None:
        data: dict[str, JsonValue] = {"param": "report_to", "tracker": self._tracker.name}
        if is_warning:
            self._events.emit("warning", level="warning", message=self._clean(message), data=data)
        else:
            self._events.emit("decision", message=self._clean(message), data=data)
