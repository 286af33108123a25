"""A child process of the embedded starter: started with a pipe that ties it to us, started anew when it dies."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 30.0
STABLE_SECONDS = 60.0
"""A child that lived this long starts over with the first backoff."""
MAX_LOG_BYTES = 50 << 20


@dataclass(frozen=True)
class ChildSpec:
    """What to run."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    log_path: Path
    inherited_fds: tuple[int, ...] = ()
    worker_id: str | None = None
    """The worker that it is; None for other children."""


@dataclass
class Child:
    """One child over all its restarts. Its stdin is a pipe whose closing tells it that we are gone."""

    spec: ChildSpec
    process: subprocess.Popen[bytes] | None = None
    restart_at: float = 0.0
    _backoff_seconds: float = field(default=FIRST_BACKOFF_SECONDS)
    _started_at: float = 0.0

    def start(self) -> None:
        """Starts it in a session of its own, so that Ctrl+C reaches us alone and we choose the order."""
        self._started_at = time.monotonic()
        with _open_log(self.spec.log_path) as log:
            self.process = subprocess.Popen(
                self.spec.argv,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=dict(self.spec.environment),
                pass_fds=self.spec.inherited_fds,
                start_new_session=True,
            )

    def find_exit_status(self) -> int | None:
        """Returns the status of a child that has just ended (once) and plans its restart; None otherwise."""
        if self.process is None or (status := self.process.poll()) is None:
            return None
        self._close_pipe()
        self.process = None
        if time.monotonic() - self._started_at > STABLE_SECONDS:
            self._backoff_seconds = FIRST_BACKOFF_SECONDS
        self.restart_at = time.monotonic() + self._backoff_seconds
        self._backoff_seconds = min(self._backoff_seconds * 2, MAX_BACKOFF_SECONDS)
        return status

    def ask_to_stop(self) -> None:
        """Sends SIGTERM."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait_until(self, deadline: float) -> bool:
        """Waits for its end up to a time of the monotonic clock; returns False if it still lives."""
        if self.process is None:
            return True
        try:
            self.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return False
        self._close_pipe()
        return True

    def kill(self) -> None:
        """Sends SIGKILL and closes the pipe, by which what is below it learns that it is gone."""
        if self.process is not None:
            self.process.kill()
            self._close_pipe()
            self.process.wait()

    def _close_pipe(self) -> None:
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()


def reap_adopted(children: Sequence[Child]) -> None:
    """Buries orphans of dead children, which a subreaper inherits, without taking the children's own statuses."""
    known = {child.process.pid for child in children if child.process is not None}
    while True:
        try:
            peeked = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if peeked is None or peeked.si_pid in known:
            return
        os.waitpid(peeked.si_pid, 0)


def _open_log(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")
