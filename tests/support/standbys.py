"""Looks at the stand-bys of a worker: which processes they are, and whether they wait for a job."""

from dataclasses import dataclass
from pathlib import Path

from trainer_core.watchdog import find_descendants


@dataclass(frozen=True)
class Waiting:
    """A stand-by that is ready."""

    pipeline: int
    prepare: int
    train: int

    @property
    def pids(self) -> set[int]:
        """All of it."""
        return {self.pipeline, self.prepare, self.train}


def read_argv(pid: int) -> list[str]:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    except OSError:
        return []


def find_waiting(worker_pid: int) -> Waiting | None:
    """The stand-by below a worker of one slot that is ready, None while there is none."""
    for pid in find_descendants(worker_pid):
        argv = read_argv(pid)
        if "trainer_core.pipeline" in argv and argv[-2:] == ["--standby", "ready"]:
            # Children come in the order in which they were started.
            prepare, train = sorted(find_descendants(pid))
            return Waiting(pid, prepare, train)
    return None


def find_standby_pids(worker_pid: int) -> set[int]:
    """All processes of stand-bys below a worker, ready or not."""
    return {pid for pid in find_descendants(worker_pid) if "--standby" in read_argv(pid)}
