"""What a launcher is asked and what it answers."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from trainer_core.enums import Step
from trainer_core.workspace import Workspace

STEP_ENTRY = ("-m", "trainer_core.step_main")
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """One step to start."""

    workspace: Path
    attempt: int
    step: Step
    num_processes: int = 1
    """Ranks of one host, one a GPU; a step that is not distributed has 1."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """What the step's program is told."""
        return ("--workspace", str(self.workspace), "--attempt", str(self.attempt), "--step", self.step.value)

    @property
    def stop_file(self) -> Path:
        """The file by which several processes are asked to stop."""
        return Workspace(self.workspace).attempt(self.attempt).step_stop(self.step)


@dataclass(frozen=True, slots=True)
class LaunchCommand:
    """A program to start. Its stdin will be a pipe: a line of secrets as JSON for each process of the step, then held
    open until the end."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the pipeline's own environment."""
    num_processes: int = 1
    """Processes of the step; a launcher above them reads nothing."""
    stop_file: Path | None = None
    """File whose being there asks the processes to stop. None: SIGTERM does."""


class Launcher(Protocol):
    """Turns a step into the command that runs it; starts nothing itself."""

    def build_command(self, request: LaunchRequest) -> LaunchCommand:
        """Returns the command for one step."""
        ...


def build_rank_environment(num_processes: int) -> dict[str, str]:
    """What the ranks of one host need, however they are started."""
    # A file in the workspace must not shadow a module: launchers do not hand Python's own -P on to the ranks.
    environment = {"PYTHONSAFEPATH": "1"}
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        # Gloo looks the host's name up otherwise, which fails where no name server knows it.
        environment["GLOO_SOCKET_IFNAME"] = "lo"
    if "OMP_NUM_THREADS" not in os.environ:
        # torchrun would give a rank one core, with which an optimizer in host memory crawls, and DeepSpeed all of them.
        environment["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // num_processes))
    return environment
