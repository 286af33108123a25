"""A step's process that was started ahead of the job, as the pipeline that started it sees it."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from trainer_core.enums import Step
from trainer_core.launch.cage_command import Cage
from trainer_core.standby.command_line import reserve_room
from trainer_core.standby.hand_over import ANSWER, HandOver, Readiness, has_line, read_line, write_line

_ANSWER_SECONDS = 5.0


class WarmStep:
    """Waits for a job, or gets ready to."""

    def __init__(
        self, step: Step, *, entry: Sequence[str], cage: Cage, env: Mapping[str, str], num_room_bytes: int
    ) -> None:
        """Starts it. `env` is added to this process's own; `num_room_bytes` is room for the job's command line."""
        self.step = step
        self.popen = subprocess.Popen(
            [
                *cage.build_prefix(),
                *(sys.executable, "-P", *entry, "--step", step.value, "--standby", reserve_room(num_room_bytes)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={**os.environ, **env},
            start_new_session=True,
        )

    def __str__(self) -> str:
        return self.step.value

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.popen.pid

    @property
    def output(self) -> int:
        """The descriptor to wait at for what it says."""
        assert self.popen.stdout is not None
        return self.popen.stdout.fileno()

    def read_readiness(self) -> Readiness | None:
        """What it says of itself, None when it has ended; call it when there is something to read."""
        line = read_line(self.output, timeout_seconds=_ANSWER_SECONDS)
        return None if line is None else Readiness.from_line(line)

    def take(self, hand_over: HandOver) -> "subprocess.Popen[bytes] | None":
        """Hands the job over; returns the process, which reads its secrets next, or None: it is dead then."""
        assert self.popen.stdin is not None
        # It has nothing to say before it is told: only its end.
        is_told = not has_line(self.output) and write_line(
            self.popen.stdin.fileno(), hand_over.to_line(), timeout_seconds=_ANSWER_SECONDS
        )
        if is_told and read_line(self.output, timeout_seconds=_ANSWER_SECONDS) == ANSWER.strip():
            return self.popen
        self.end()
        return None

    def end(self) -> None:
        """Kills it."""
        self.popen.kill()
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
