"""One step in a process that was started ahead of its job: imports and rehearses the step, then waits to be told.

`python -m trainer_core.warm_main --step prepare|train --standby ROOM`. Stdin and stdout: see
`trainer_core.standby.hand_over`; from the answer on all is as in `trainer_core.step_main`, which then runs here. ROOM
means nothing: it keeps place for the job's command line. It serves one step and ends; an end-of-file ends it before.
"""

import argparse
import importlib
import logging
import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from trainer_core.enums import Step
from trainer_core.launch.base import STEP_ENTRY
from trainer_core.process_end import end_process
from trainer_core.standby.hand_over import ANSWER, HandOver, Readiness
from trainer_core.standby.moved_paths import MovedPaths
from trainer_core.standby.privacy import set_traceable
from trainer_core.standby.taking import take_job
from trainer_core.standby.waiting import EXIT_UNUSED
from trainer_core.step_main import main as run_step
from trainer_core.watchdog import read_stdin_line

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_LAST_PLACE = 19
"""Niceness while it gets ready: whatever runs on the host goes first."""
_REHEARSALS = {Step.PREPARE: "trainer_core.rehearsal.preparing", Step.TRAIN: "trainer_core.rehearsal.training"}
REHEARSED_STEPS = tuple(_REHEARSALS)


class Preparation:
    """The step's libraries, imported and used once, in a thread of its own."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self.failure: str | None = None
        """Why it cannot be used."""
        self.on_hand_over: Callable[[], object] = _do_nothing
        """What can be done only when the GPUs are known."""
        self.paths: MovedPaths | None = None
        self._finished_reader, self._finished_writer = os.pipe()

    def run(self) -> bool:
        """Gets ready; returns False when stdin closes meanwhile."""
        thread = threading.Thread(target=self._run, name="rehearsal", daemon=True)
        thread.start()
        poll = select.poll()
        # Of stdin no event is asked for: a hang-up is always told, and nobody writes there yet.
        poll.register(_STDIN, 0)
        poll.register(self._finished_reader, select.POLLIN)
        if any(descriptor == _STDIN for descriptor, _ in poll.poll()):
            return False
        thread.join()
        return True

    def _run(self) -> None:
        # Of this thread, not of the process: an unprivileged process never gets its own back.
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LAST_PLACE)
        try:
            self._rehearse()
        # Whatever libraries raise: the job runs in a process that starts when it does.
        except BaseException as error:  # noqa: BLE001
            self.failure = "".join(traceback.format_exception_only(error)).strip()
        os.write(self._finished_writer, b"\n")

    def _rehearse(self) -> None:
        devices = importlib.import_module("trainer_core.rehearsal.without_devices")
        with ExitStack() as stack:
            stack.enter_context(devices.without_devices())
            if devices.is_built_for_devices():
                stack.enter_context(devices.without_bitsandbytes())
                self.on_hand_over = devices.give_bitsandbytes_back if self._step is Step.TRAIN else _do_nothing
            rehearsal = importlib.import_module(_REHEARSALS[self._step])
            with importlib.import_module("trainer_core.rehearsal.traces").leaving_no_trace():
                rehearsal.rehearse()
        self.paths = MovedPaths(os.environ["HOME"])
        if devices.has_touched_driver():
            self.failure = "it has asked the CUDA driver for GPUs before it was told which are its own"


def main(arguments: Sequence[str] | None = None) -> int:
    """Waits for a job, runs its step and returns the exit status. Takes over this process."""
    options = _parse(arguments)
    set_traceable(False)
    birth_environment = dict(os.environ)
    output = _silence()
    preparation = Preparation(options.step)
    if not preparation.run():
        return EXIT_UNUSED
    is_ready = preparation.failure is None
    os.write(output, Readiness(is_ready, preparation.failure or "").to_line())
    line = read_stdin_line() if is_ready else b""
    if not line:
        return EXIT_UNUSED
    hand_over = HandOver.from_line(line)
    take_job(hand_over, entry=STEP_ENTRY, birth_environment=birth_environment)
    if preparation.paths is not None:
        preparation.paths.move(os.environ["HOME"])
    logging.getLogger().handlers.clear()
    os.write(output, ANSWER)
    _speak(output)
    preparation.on_hand_over()
    return run_step(hand_over.arguments, is_warm=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer_core.warm_main")
    parser.add_argument("--step", type=Step, choices=REHEARSED_STEPS, required=True)
    parser.add_argument("--standby", required=True)
    return parser.parse_args(arguments)


def _silence() -> int:
    """Sends what libraries print to nowhere; returns the descriptor that was stdout."""
    output = os.dup(_STDOUT)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (_STDOUT, _STDERR):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    return output


def _speak(output: int) -> None:
    """What is printed from now on is the job's."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for descriptor in (_STDOUT, _STDERR):
        os.dup2(output, descriptor)
    os.close(output)


def _do_nothing() -> None:
    return


if __name__ == "__main__":
    end_process(main())
