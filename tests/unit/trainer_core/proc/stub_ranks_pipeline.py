"""The real pipeline, whose step train is two stub ranks below the real torchrun."""

import sys
from pathlib import Path

from trainer_core.launch.by_resources import LauncherByResources
from trainer_core.launch.single import SingleLauncher
from trainer_core.pipeline import Launchers, main

HERE = Path(__file__).parent

if __name__ == "__main__":
    launchers = Launchers(
        step=LauncherByResources({}, entry=[str(HERE / "stub_rank.py")]),
        stage=SingleLauncher(entry=[str(HERE / "stub_stage.py")]),
    )
    sys.exit(main(launchers=launchers))
