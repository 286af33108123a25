"""A pipeline that waits for its attempt, with the first steps of it getting ready beneath."""

import os
import select
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trainer_core.enums import Step
from trainer_core.launch.cage_command import Cage, NetworkMode
from trainer_core.standby.hand_over import ANSWER, HandOver, Readiness
from trainer_core.standby.privacy import set_traceable
from trainer_core.standby.taking import show_readiness, take_job
from trainer_core.standby.warm_step import WarmStep
from trainer_core.watchdog import read_stdin_line

_STDIN, _STDOUT, _STDERR = 0, 1, 2
EXIT_UNUSED = 70
"""Exit status of a pipeline that got no attempt."""


def start_warm_steps(
    entry: Sequence[str], *, network: NetworkMode, env: Mapping[str, str], num_room_bytes: int
) -> list[WarmStep]:
    """Starts prepare and train, which leaves the network as it will in the job. `env` is added to this process's."""
    offline = {**env, "HF_HUB_OFFLINE": "1"}
    return [
        WarmStep(Step.PREPARE, entry=entry, cage=Cage(), env=env, num_room_bytes=num_room_bytes),
        WarmStep(Step.TRAIN, entry=entry, cage=Cage(network=network), env=offline, num_room_bytes=num_room_bytes),
    ]


def wait_for_attempt(
    steps: Sequence[WarmStep], *, entry: Sequence[str], find_output: Callable[[Sequence[str]], Path]
) -> tuple[str, ...] | None:
    """Waits until the worker hands an attempt over, then takes it; returns the arguments of its pipeline.

    None when no attempt can come any more: stdin was closed, or a step does not get ready. `find_output` says for the
    arguments where the attempt's output goes, which is where this process prints from then on.
    """
    set_traceable(False)
    birth_environment = dict(os.environ)
    line = _wait_for_line(steps, on_ready=lambda: show_readiness(entry))
    if not line:
        return None
    hand_over = HandOver.from_line(line)
    take_job(hand_over, entry=entry, birth_environment=birth_environment)
    os.write(_STDOUT, ANSWER)
    _print_to(find_output(hand_over.arguments))
    return hand_over.arguments


def _wait_for_line(steps: Sequence[WarmStep], *, on_ready: Callable[[], object]) -> bytes:
    """Returns what comes on stdin; nothing at its end, or when a step has ended. Says meanwhile when all are ready."""
    waited_for = {step.output: step for step in steps}
    poll = select.poll()
    for descriptor in (_STDIN, *waited_for):
        poll.register(descriptor, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == _STDIN:
                return read_stdin_line()
            step = waited_for.pop(descriptor, None)
            readiness = None if step is None else step.read_readiness()
            if readiness is None:
                return b""
            if not readiness.is_ready:
                os.write(_STDOUT, Readiness(False, f"{step}: {readiness.message}").to_line())
                return b""
            if not waited_for:
                on_ready()
                os.write(_STDOUT, Readiness(True).to_line())


def _print_to(path: Path) -> None:
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    for descriptor in (_STDOUT, _STDERR):
        os.dup2(output, descriptor)
    os.close(output)
