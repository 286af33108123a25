"""The launcher for several processes of one host: torchrun."""

import sys
from collections.abc import Sequence

from trainer_core.launch.base import LOOPBACK, STEP_ENTRY, LaunchCommand, LaunchRequest, build_rank_environment


class TorchrunLauncher:
    """Starts the step as ranks below torchrun, which meet on the loopback at a port that it binds itself.

    One lost rank ends all: the attempt is what is tried again, from the newest checkpoint.
    """

    def __init__(self, *, entry: Sequence[str] = STEP_ENTRY) -> None:
        self._entry = tuple(entry)

    def build_command(self, request: LaunchRequest) -> LaunchCommand:
        """Returns the command for one step."""
        return LaunchCommand(
            argv=(
                *(sys.executable, "-P", "-m", "torch.distributed.run"),
                *("--nnodes=1", f"--nproc-per-node={request.num_processes}", "--max-restarts=0"),
                *("--rdzv-backend=c10d", f"--rdzv-endpoint={LOOPBACK}:0", f"--local-addr={LOOPBACK}"),
                *self._entry,
                *request.arguments,
            ),
            env=build_rank_environment(request.num_processes),
            num_processes=request.num_processes,
            stop_file=request.stop_file,
        )
