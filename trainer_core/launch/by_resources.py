"""Chooses the launcher of a step by the processes that it gets and by the Config."""

from collections.abc import Mapping, Sequence

from trainer_core.launch.base import STEP_ENTRY, LaunchCommand, Launcher, LaunchRequest
from trainer_core.launch.deepspeed import DeepSpeedLauncher
from trainer_core.launch.single import SingleLauncher
from trainer_core.launch.torchrun import TorchrunLauncher
from trainer_core.types import JsonValue


class LauncherByResources:
    """One process runs by itself; several run below DeepSpeed's launcher when the Config asks for DeepSpeed, else below
    torchrun."""

    def __init__(self, config: Mapping[str, JsonValue], *, entry: Sequence[str] = STEP_ENTRY) -> None:
        """`config`: the job's Config as its user gave it."""
        self._single = SingleLauncher(entry=entry)
        self._several: Launcher
        if uses_deepspeed(config):
            self._several = DeepSpeedLauncher(entry=entry)
        else:
            self._several = TorchrunLauncher(entry=entry)

    def build_command(self, request: LaunchRequest) -> LaunchCommand:
        """Returns the command for one step."""
        launcher = self._single if request.num_processes == 1 else self._several
        return launcher.build_command(request)


def uses_deepspeed(config: Mapping[str, JsonValue]) -> bool:
    """Whether a Config's values, not yet validated, turn DeepSpeed on."""
    stage = str(config.get("deepspeed_stage") or 0).strip().removeprefix("stage_")
    return stage != "0" or config.get("deepspeed_config_path") is not None
