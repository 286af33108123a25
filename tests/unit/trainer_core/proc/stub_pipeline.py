"""The real pipeline with the stub step program in place of the real one."""

import sys
from pathlib import Path

from trainer_core.launch.single import SingleLauncher
from trainer_core.pipeline import Launchers, main

HERE = Path(__file__).parent

if __name__ == "__main__":
    sys.exit(
        main(
            launchers=Launchers(
                step=SingleLauncher(entry=[str(HERE / "stub_step.py")]),
                stage=SingleLauncher(entry=[str(HERE / "stub_stage.py")]),
                warm_entry=[str(HERE / "stub_warm.py")],
            ),
        )
    )
