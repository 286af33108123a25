"""The real program of a step that waits, with a rehearsal that loads nothing and the stub steps.

HF_STUB_REHEARSAL, which reaches it as all HF_… do: `fail`, or `hang`.
"""

import os
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from stub_step import load_step, stage

from trainer_core.process_end import end_process
from trainer_core.standby.moved_paths import MovedPaths
from trainer_core.step_main import main as run_step_main
from trainer_core.warm_main import Rehearsed, main

KEPT_HOME = os.environ["HOME"] + "/kept"
"""As a library keeps a path of its environment when it is imported."""


def rehearse(step) -> Rehearsed:
    order = os.environ.get("HF_STUB_REHEARSAL")
    if order == "fail":
        raise ImportError("no module named torch")
    if order == "hang":
        threading.Event().wait()
    print("noise of the rehearsal", flush=True)
    return Rehearsed(paths=MovedPaths(os.environ["HOME"]))


def run_step(arguments, *, is_warm):
    print("kept", KEPT_HOME, flush=True)
    return run_step_main(arguments, load_step=load_step, stage=stage, is_warm=is_warm)


if __name__ == "__main__":
    end_process(main(rehearse=rehearse, run_step=run_step))
