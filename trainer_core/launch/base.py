"""What a launcher is asked and what it answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trainer_core.enums import Step


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """One step to start."""

    workspace: Path
    attempt: int
    step: Step
    num_processes: int = 1
    """Ranks of one host, one a GPU; a step that is not distributed has 1."""


@dataclass(frozen=True, slots=True)
class LaunchCommand:
    """A program to start. Its stdin will be a pipe: one line of secrets as JSON, then held open until the end."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the pipeline's own environment."""


class Launcher(Protocol):
    """Turns a step into the command that runs it; starts nothing itself."""

    def build_command(self, request: LaunchRequest) -> LaunchCommand:
        """Returns the command for one step."""
        ...
