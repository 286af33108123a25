"""The real staging program with a stage function that fetches nothing."""

import sys

from tests.chaos.stub_step import stage
from trainer_core.stage_main import main

if __name__ == "__main__":
    sys.exit(main(stage=stage))
