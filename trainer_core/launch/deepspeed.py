"""The launcher for several processes of one host that train with DeepSpeed: DeepSpeed's own."""

import base64
import json
import os
import socket
import sys
from collections.abc import Callable, Sequence

from trainer_core.launch.base import LOOPBACK, STEP_ENTRY, LaunchCommand, LaunchRequest, build_rank_environment


def find_free_port() -> int:
    """A TCP port of the loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


class DeepSpeedLauncher:
    """Starts the step as ranks below `deepspeed.launcher.launch`, which the command `deepspeed` starts on each host."""

    def __init__(self, *, entry: Sequence[str] = STEP_ENTRY, choose_port: Callable[[], int] = find_free_port) -> None:
        self._entry = ("--module", entry[1]) if entry[0] == "-m" else tuple(entry)
        self._choose_port = choose_port

    def build_command(self, request: LaunchRequest) -> LaunchCommand:
        """Returns the command for one step."""
        world = json.dumps({"localhost": _choose_devices(request.num_processes)}).encode()
        return LaunchCommand(
            argv=(
                *(sys.executable, "-P", "-m", "deepspeed.launcher.launch"),
                f"--world_info={base64.urlsafe_b64encode(world).decode()}",
                *(f"--master_addr={LOOPBACK}", f"--master_port={self._choose_port()}", "--no_local_rank"),
                *self._entry,
                *request.arguments,
            ),
            env=build_rank_environment(request.num_processes),
            num_processes=request.num_processes,
            stop_file=request.stop_file,
        )


def _choose_devices(num_processes: int) -> list[int | str]:
    """The devices that this job was given: the launcher writes CUDA_VISIBLE_DEVICES anew from what it is told."""
    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    if len(given) < num_processes:
        return list(range(num_processes))
    return [int(name) if name.isdecimal() else name for name in given[:num_processes]]
