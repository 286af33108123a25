"""The real pipeline; its steps count, and a step train of several ranks runs below an agent like torchrun's."""

import sys
from pathlib import Path

from trainer_core.launch.base import LaunchCommand, LaunchRequest, build_rank_environment
from trainer_core.launch.single import SingleLauncher
from trainer_core.pipeline import Launchers, main

STUB_STEP = str(Path(__file__).parent / "stub_step.py")
STUB_AGENT = str(Path(__file__).parent / "stub_agent.py")


class StubLauncher:
    """One process for one rank, an agent above several: torchrun itself would cost seconds of imports a start."""

    def build_command(self, request: LaunchRequest) -> LaunchCommand:
        """Returns the command for one step."""
        if request.num_processes == 1:
            return SingleLauncher(entry=[STUB_STEP]).build_command(request)
        return LaunchCommand(
            argv=(sys.executable, "-P", STUB_AGENT, str(request.num_processes), STUB_STEP, *request.arguments),
            env=build_rank_environment(request.num_processes),
            num_processes=request.num_processes,
            stop_file=request.stop_file,
        )


if __name__ == "__main__":
    # Nothing is staged: the steps read no model.
    stage = SingleLauncher(entry=[str(Path(__file__).parent / "stub_stage.py")])
    sys.exit(main(launchers=Launchers(step=StubLauncher(), stage=stage)))
