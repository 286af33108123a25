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
from dataclasses import dataclass
from typing import Protocol

from trainer_core.enums import Step
from trainer_core.launch.base import STEP_ENTRY
from trainer_core.process_end import end_process
from trainer_core.standby.hand_over import ANSWER, HandOver, Readiness
from trainer_core.standby.moved_paths import MovedPaths
from trainer_core.standby.privacy import set_traceable
from trainer_core.standby.taking import show_readiness, take_job
from trainer_core.standby.waiting import EXIT_UNUSED
from trainer_core.step_main import main as run_step_main
from trainer_core.watchdog import read_stdin_line

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_LAST_PLACE = 19
"""Niceness while it gets ready: whatever runs on the host goes first."""
_REHEARSALS = {Step.PREPARE: "trainer_core.rehearsal.preparing", Step.TRAIN: "trainer_core.rehearsal.training"}


def _do_nothing() -> None:
    return


@dataclass(slots=True)
class Rehearsed:
    """What a rehearsal leaves to be done."""

    failure: str | None = None
    """Why the process cannot be used."""
    paths: MovedPaths | None = None
    """None: nothing has kept a path."""
    on_hand_over: Callable[[], object] = _do_nothing
    """What can be done only when the GPUs are known."""


class RunStep(Protocol):
    def __call__(self, arguments: Sequence[str], *, is_warm: bool) -> int:
        """Runs the step as `trainer_core.step_main` does."""
        ...


def main(
    arguments: Sequence[str] | None = None,
    *,
    rehearse: Callable[[Step], Rehearsed] | None = None,
    run_step: RunStep = run_step_main,
) -> int:
    """Waits for a job, runs its step and returns the exit status. Takes over this process."""
    options = _parse(arguments)
    set_traceable(False)
    birth_environment = dict(os.environ)
    output = _silence()
    rehearsed = _rehearse_beside(lambda: (rehearse or rehearse_step)(options.step))
    if rehearsed is None:
        return EXIT_UNUSED
    is_ready = rehearsed.failure is None
    if is_ready:
        show_readiness(STEP_ENTRY)
    os.write(output, Readiness(is_ready, rehearsed.failure or "").to_line())
    line = read_stdin_line() if is_ready else b""
    if not line:
        return EXIT_UNUSED
    hand_over = HandOver.from_line(line)
    take_job(hand_over, entry=STEP_ENTRY, birth_environment=birth_environment)
    if rehearsed.paths is not None:
        rehearsed.paths.move(os.environ["HOME"])
    logging.getLogger().handlers.clear()
    os.write(output, ANSWER)
    _speak(output)
    rehearsed.on_hand_over()
    return run_step(hand_over.arguments, is_warm=True)


def rehearse_step(step: Step) -> Rehearsed:
    """Imports the step's libraries and uses them once. Raises whatever they raise."""
    devices = importlib.import_module("trainer_core.rehearsal.without_devices")
    rehearsed = Rehearsed()
    with ExitStack() as stack:
        stack.enter_context(devices.without_devices())
        if devices.is_built_for_devices():
            stack.enter_context(devices.without_bitsandbytes())
            if step is Step.TRAIN:
                rehearsed.on_hand_over = devices.give_bitsandbytes_back
        rehearsal = importlib.import_module(_REHEARSALS[step])
        with importlib.import_module("trainer_core.rehearsal.traces").leaving_no_trace():
            rehearsal.rehearse()
    rehearsed.paths = MovedPaths(os.environ["HOME"])
    if devices.has_touched_driver():
        rehearsed.failure = "it has asked the CUDA driver for GPUs before it was told which are its own"
    return rehearsed


def _rehearse_beside(rehearse: Callable[[], Rehearsed]) -> Rehearsed | None:
    """Rehearses in a thread of the lowest priority; None when stdin closes meanwhile.

    Of the thread, not of the process: an unprivileged process never gets its own priority back.
    """
    results: list[Rehearsed] = []
    reader, writer = os.pipe()

    def run() -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LAST_PLACE)
        try:
            results.append(rehearse())
        # Whatever libraries raise: the job runs in a process that starts when it does.
        except BaseException as error:  # noqa: BLE001
            results.append(Rehearsed(failure="".join(traceback.format_exception_only(error)).strip()))
        os.close(writer)

    thread = threading.Thread(target=run, name="rehearsal", daemon=True)
    thread.start()
    poll = select.poll()
    # Of stdin no event is asked for: a hang-up is always told, and nobody writes there yet.
    poll.register(_STDIN, 0)
    poll.register(reader, select.POLLIN)
    is_orphaned = any(descriptor == _STDIN for descriptor, _ in poll.poll())
    if is_orphaned:
        return None
    thread.join()
    os.close(reader)
    return results[0]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer_core.warm_main")
    parser.add_argument("--step", type=Step, choices=tuple(_REHEARSALS), required=True)
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


if __name__ == "__main__":
    end_process(main())
