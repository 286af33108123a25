"""How the processes of one step and the pipeline agree, where a launcher between them hides exit statuses."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer_core.attempt.outcome import (
    EXIT_DISK_FULL,
    EXIT_SUCCEEDED,
    AttemptResult,
    Failure,
    read_failure,
    write_failure,
)
from trainer_core.context import StopFlag
from trainer_core.enums import Step
from trainer_core.errors import DiskFullError, HostMemoryError

INTERRUPTED = "interrupted"
"""Code of the failure that is none: the ranks were asked to stop and have saved."""
RANK_LOST = "rank_lost"
"""Code of the failure of a rank whose peer is gone: what ended the peer is the reason, if it is known."""

_PEER_LOST_TEXTS = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "socket closed",
    "socket timeout",
    "ncclremoteerror",
    "ncclcommaborted",
    "nccl communicator was aborted",
    "remote process exited",
    "no route to host",
    "gloo",
    "tcpstore",
)


class StopFile(StopFlag):
    """A stop that the pipeline asks for by a file: a signalled launcher would end its ranks before they have saved."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    @property
    def is_set(self) -> bool:
        """True once the file is there."""
        return super().is_set or self._path.exists()


@contextmanager
def take_turns(path: Path) -> Iterator[None]:
    """Lets one process at a time into the block; `path` is any file or folder that all of them can open."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def write_rank_failure(path: Path, failure: Failure) -> None:
    """Writes why a rank ended, unless another rank has left a better reason. Raises OSError."""
    with take_turns(path.parent):
        earlier = read_failure(path)
        if earlier is None or _weigh(failure) > _weigh(earlier):
            write_failure(path, failure)


def describe_lost_peer(error: BaseException, failure: Failure) -> Failure:
    """The failure of a rank, told as a lost rank when the error is about the connection to the others."""
    names = {base.__name__ for base in type(error).__mro__}
    text = str(error).lower()
    is_distributed = bool(names & {"DistBackendError", "DistNetworkError", "DistStoreError"})
    if not (is_distributed or (isinstance(error, RuntimeError) and any(each in text for each in _PEER_LOST_TEXTS))):
        return failure
    message = f"a process of {failure.step} lost the others: one of them was killed or has crashed"
    return Failure(RANK_LOST, message, step=failure.step, retryable=True)


def classify_ranks_exit(
    status: int, *, step: Step, failure: Failure | None, was_stopped: bool, had_oom_kill: bool
) -> AttemptResult:
    """Returns how a step of several processes ended.

    `status` is the launcher's, which tells little; `failure` is the best reason that a rank wrote; `was_stopped` says
    that a stop was asked for; `had_oom_kill` that the kernel killed for memory meanwhile.
    """
    if failure is not None and failure.code == INTERRUPTED:
        return AttemptResult("interrupted")
    if status == EXIT_SUCCEEDED:
        return AttemptResult("succeeded")
    if failure is not None and failure.code != RANK_LOST:
        return AttemptResult("failed", failure)
    if was_stopped:
        return AttemptResult("interrupted")
    return AttemptResult("failed", _guess_failure(status, step=step, had_oom_kill=had_oom_kill))


def _guess_failure(status: int, *, step: Step, had_oom_kill: bool) -> Failure:
    if status == EXIT_DISK_FULL:
        return Failure(DiskFullError.code, f"{step}: no space left on the host's disk", step=step)
    if had_oom_kill:
        message = f"a process of {step} was killed because the host's memory ran out"
        return Failure(HostMemoryError.code, message, step=step, retryable=True)
    message = f"a process of {step} was killed or has crashed without a reason; the log may tell more"
    return Failure(RANK_LOST, message, step=step, retryable=True)


def _weigh(failure: Failure) -> int:
    return {RANK_LOST: 0, INTERRUPTED: 1}.get(failure.code, 2)
