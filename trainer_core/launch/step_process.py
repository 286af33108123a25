"""One running step: starts it in a session of its own, gives it its secrets, keeps what it prints."""

import os
import signal
import subprocess
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from trainer_core.attempt.log_sink import LogSink
from trainer_core.attempt.secrets_line import format_secrets
from trainer_core.launch.base import LaunchCommand
from trainer_core.watchdog import kill_descendants

_DRAIN_SECONDS = 10.0
"""How long output may still come after the step and all that it started are gone."""


def start_step(
    command: LaunchCommand, *, folder: Path, env: Mapping[str, str], secrets: Mapping[str, str], sink: LogSink
) -> "StepProcess":
    """Starts a step's program. `env` is added to this process's own. Raises OSError."""
    if command.stop_file is not None:
        command.stop_file.unlink(missing_ok=True)
    popen = subprocess.Popen(
        command.argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, **env, **command.env},
        start_new_session=True,
    )
    return StepProcess(
        popen,
        secrets_lines=format_secrets(secrets) * command.num_processes,
        sink=sink,
        stop_file=command.stop_file,
    )


class StepProcess:
    """A started step. Its stdin stays open until it has ended: end-of-file tells it that nobody waits any more."""

    def __init__(
        self, popen: "subprocess.Popen[bytes]", *, secrets_lines: bytes, sink: LogSink, stop_file: Path | None = None
    ) -> None:
        """`popen`: a process that reads its secrets next, with pipes for stdin and stdout."""
        self._stop_file = stop_file
        self._popen = popen
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._drain = threading.Thread(
            target=sink.drain, args=(self._popen.stdout.fileno(),), name="step-output", daemon=True
        )
        self._drain.start()
        try:
            self._popen.stdin.write(secrets_lines)
            self._popen.stdin.flush()
        except BrokenPipeError:
            # It died before it read them; its exit status says why.
            return

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def wait_briefly(self, timeout_seconds: float) -> bool:
        """Returns whether it has ended by then; call `wait` when it has, or after a signal that ends it."""
        try:
            self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def wait(self, *, spared: Collection[int] = ()) -> int:
        """Waits for the step, kills whatever it left behind, and returns its exit status (negative: a signal).

        `spared` are processes beside it that live on, with what is below them.
        """
        status = self._popen.wait()
        kill_descendants(spared=spared)
        # A process that outlives SIGKILL, in the kernel, may hold the pipe: its output is not worth waiting for.
        self._drain.join(_DRAIN_SECONDS)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None and not self._drain.is_alive():
                pipe.close()
        return status

    def send_signal(self, number: int) -> None:
        """Signals the step's own process; one that has ended is left alone."""
        self._popen.send_signal(number)

    def request_stop(self) -> None:
        """Asks the step to save and stop; one that has ended is left alone."""
        if self._stop_file is None:
            self._popen.send_signal(signal.SIGTERM)
            return
        try:
            self._stop_file.touch()
        except OSError:
            # A full disk: nothing could be saved either.
            self._popen.send_signal(signal.SIGTERM)
