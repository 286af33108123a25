"""The launcher for one process: a CPU or one GPU."""

import sys
from collections.abc import Sequence

from trainer_core.launch.base import STEP_ENTRY, LaunchCommand, LaunchRequest


class SingleLauncher:
    """Starts the step as one Python process."""

    def __init__(self, *, entry: Sequence[str] = STEP_ENTRY) -> None:
        self._entry = tuple(entry)

    def build_command(self, request: LaunchRequest) -> LaunchCommand:
        """Returns the command for one step. Raises ValueError when asked for more than one process."""
        if request.num_processes != 1:
            raise ValueError(f"one process was asked to be {request.num_processes}")
        # -P: the step's current folder is the workspace, and a file that lies there must not shadow a module.
        return LaunchCommand(argv=(sys.executable, "-P", *self._entry, *request.arguments))
