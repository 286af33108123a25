"""What surrounds a running step: where its events go, what it was given, whether it is asked to stop."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

from trainer_core.enums import Step
from trainer_core.events import EventLevel
from trainer_core.job_spec import StepInputs
from trainer_core.ranks import is_first_rank
from trainer_core.redaction import Redactor
from trainer_core.types import JsonValue

ArtifactName = Literal["data", "adapter", "model", "fused", "quantized"]

_LOGGING_LEVELS: Mapping[EventLevel, int] = {
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class EventSink(Protocol):
    """Takes the events of a step."""

    def emit(
        self,
        type: str,
        *,
        message: str = "",
        level: EventLevel = "info",
        data: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Records one event; `data` holds JSON values only."""
        ...


class LoggingEventSink:
    """Writes events to Python's logging: what a script sees of them."""

    def __init__(self, step: Step) -> None:
        self._logger = logging.getLogger(f"trainer_core.steps.{step}")

    def emit(
        self,
        type: str,
        *,
        message: str = "",
        level: EventLevel = "info",
        data: Mapping[str, JsonValue] | None = None,
    ) -> None:
        """Logs one event at its own level; of several ranks only the first does: all have the same to tell."""
        if not is_first_rank():
            return
        self._logger.log(_LOGGING_LEVELS[level], "%s %s %s", type, message, dict(data) if data else "")


class StopFlag:
    """Says whether the step was asked to stop; set by a signal handler, read by the training loop."""

    def __init__(self) -> None:
        self._is_set = False

    @property
    def is_set(self) -> bool:
        """True from the first request on. A property, not a method."""
        return self._is_set

    def set(self) -> None:
        """Asks the step to stop as soon as it has saved what it would lose."""
        self._is_set = True


@dataclass(frozen=True, slots=True)
class ArtifactFolder:
    """Files that a step made and that belong together."""

    name: ArtifactName
    root: Path
    files: tuple[str, ...]
    """Paths relative to `root`, with forward slashes, sorted."""

    @classmethod
    def of_files_in(cls, root: Path, *, name: ArtifactName) -> Self:
        """Takes the regular files that lie directly in `root`: checkpoints and other folders below it are no part."""
        files = sorted(path.name for path in root.iterdir() if path.is_file() and not path.is_symlink())
        return cls(name=name, root=root, files=tuple(files))


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step made."""

    artifacts: tuple[ArtifactFolder, ...] = ()
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    """Numbers worth keeping: rows, losses, sizes."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """Handed to a step function by whoever runs it; None there means `for_script`."""

    step: Step
    events: EventSink
    inputs: StepInputs = field(default_factory=StepInputs)
    stop: StopFlag = field(default_factory=StopFlag)
    model_id: str | None = None
    """The base model's name as the user gave it, when the Config holds the local folder it was staged in; goes into
    model cards and `adapter_config.json`. None: the Config's name is the user's."""
    redactor: Redactor = field(default_factory=Redactor)
    """Cleans texts that leave the host with the artifacts: no secret, no path of a job's host."""
    tracking: Path | None = None
    """File for the metrics of trackers, which another process sends on. None: the trackers run in this process."""

    @classmethod
    def for_script(cls, step: Step) -> Self:
        """A context for a step that is called as a function: events are logged, nothing asks it to stop."""
        return cls(step=step, events=LoggingEventSink(step))
