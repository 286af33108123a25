"""A step program whose training is several ranks that obey `ranks.json`: real processes without torch."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from tests.unit.trainer_core.proc.stub_step import run_fuse, run_prepare, run_train, save_checkpoint, stage
from trainer_core.config import Config
from trainer_core.context import StepContext, StepResult
from trainer_core.enums import Step
from trainer_core.errors import DataError, StepInterrupted
from trainer_core.ranks import count_ranks, find_rank
from trainer_core.step_main import main


def load_step(step: Step):
    return {Step.PREPARE: run_prepare, Step.TRAIN: run_rank, Step.FUSE: run_fuse}[step]


def run_rank(config: Config, context: StepContext) -> StepResult:
    rank = find_rank()
    Path(f"rank-{rank}").write_text(f"{os.getpid()} {count_ranks()} {bool(config.huggingface_hub_token)}")
    context.events.emit("metrics", data={"rank": rank})
    order = json.loads(Path("ranks.json").read_text()).get(str(rank), "go")
    if order == "kill":
        wait_for(Path("rank-0"))
        os.kill(os.getpid(), signal.SIGKILL)
    if order == "data":
        raise DataError("row 3 has no text", param="dataset_key")
    if order == "lose":
        wait_for(Path("rank-1"))
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1")
    if order == "stop":
        while not context.stop.is_set:
            time.sleep(0.01)
        # The first rank saves while the others have long ended.
        if rank == 0:
            time.sleep(0.5)
            save_checkpoint(7, context)
        raise StepInterrupted("stopped after step 7")
    if order == "sleep":
        time.sleep(600)
    return run_train(config, context) if rank == 0 else StepResult()


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.01)


if __name__ == "__main__":
    sys.exit(main(load_step=load_step, stage=stage))
