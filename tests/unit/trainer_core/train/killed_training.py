"""A training that kills its own process: started by test_resume.py with a Config as JSON and the fatal step."""

import json
import os
import signal
import sys
from typing import Any

from transformers import TrainerCallback

from tests.unit.trainer_core.train.conftest import make_dataset
from trainer_core.config import build_config
from trainer_core.experiments import Experiment


class Killer(TrainerCallback):  # type: ignore[misc]
    """Ends the process as a crash would: no handler runs."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            os.kill(os.getpid(), signal.SIGKILL)


class FatalExperiment(Experiment):
    """Dies at the step in `fatal_step`."""

    fatal_step = 0

    def after_trainer_build(self) -> None:
        assert self.trainer is not None
        self.trainer.add_callback(Killer(self.fatal_step))


if __name__ == "__main__":
    FatalExperiment.fatal_step = int(sys.argv[2])
    experiment = FatalExperiment(build_config(json.loads(sys.argv[1])), train_dataset=make_dataset(16))
    experiment.build()
    experiment.run()
