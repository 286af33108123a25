"""Which processes an installation consists of right now, by their part in it."""

import os
import re
import signal
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.plant import Plant
from trainer_core.watchdog import find_descendants

_JOB = re.compile(r"job-[0-9a-z]+")


@dataclass(frozen=True, slots=True)
class Process:
    """One live process."""

    pid: int
    parent: int
    command: str

    @property
    def job_id(self) -> str | None:
        """The job that it works for, by its arguments."""
        found = _JOB.search(self.command)
        return None if found is None else found.group()


@dataclass(frozen=True, slots=True)
class Census:
    """All live processes below this one."""

    processes: Sequence[Process]
    main_pids: frozenset[int]
    """Of the workers."""

    def pools(self) -> list[Process]:
        """The workers' pool processes: each supervises a job at a time."""
        return [each for each in self.processes if each.parent in self.main_pids and "stub_worker" in each.command]

    def pipelines(self) -> list[Process]:
        return [each for each in self.processes if "stub_pipeline" in each.command]

    def steps(self) -> list[Process]:
        """The process that a pipeline started: a step, or the agent above its ranks."""
        pipelines = {each.pid for each in self.pipelines()}
        return [each for each in self.processes if each.parent in pipelines]

    def ranks(self) -> list[Process]:
        agents = {each.pid for each in self.processes if "stub_agent" in each.command}
        return [each for each in self.processes if each.parent in agents]

    def below(self, pid: int) -> list[Process]:
        """The process and all that it and its children started."""
        found, queue = [], [pid]
        while queue:
            current = queue.pop()
            found += [each for each in self.processes if each.pid == current]
            queue += [each.pid for each in self.processes if each.parent == current]
        return found


def take_census(plant: Plant) -> Census:
    """Looks at every process that descends from this one."""
    main_pids = frozenset(worker.pid for worker in plant.workers if worker.is_running)
    return Census(list(_describe(find_descendants())), main_pids)


def kill_all(processes: Iterable[Process]) -> None:
    """SIGKILL to each that is still there, in this order."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def reap_adopted(plant: Plant) -> None:
    """Takes leave of children that were left to this process, a subreaper; those of the plant are left to it."""
    known = {part.process.pid for part in plant.parts if part.process is not None}
    if plant.postgres is not None:
        known.add(plant.postgres.pid)
    for text in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        pid = int(text)
        if pid not in known and _read_state(pid) == "Z":
            try:
                os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                continue


def _read_state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _describe(pids: Sequence[int]) -> Iterator[Process]:
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        yield Process(pid, parent, command.strip())
