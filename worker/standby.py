"""The stand-by of a worker's pool process: a pipeline with its first steps, started before there is a job for it.

It is a child of the pool process, in the cage of jobs, with a home that is nobody's and no secret. It reads the pool
process's pipe and ends with it. It serves one attempt as if it had been started for it, or none.
"""

import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from app.settings import Settings
from trainer_core.launch.cage_command import Cage
from trainer_core.plugins import has_plugins
from trainer_core.standby.command_line import reserve_room
from trainer_core.standby.hand_over import ANSWER, HandOver, Readiness, has_line, read_line, write_line
from trainer_core.trace_context import ATTEMPT_TRACE, TRACEPARENT
from trainer_core.watchdog import become_subreaper, find_descendants
from worker.cage import build_job_cage, give_folder, protect_data_folder
from worker.environment import build_pipeline_environment
from worker.free_memory import read_free_memory_bytes
from worker.owners import OWNERS_FOLDER, OwnerFolder

logger = logging.getLogger(__name__)

_MIN_FREE_BYTES = 8 << 30
"""A stand-by holds about 1 GiB; where there is less than this, jobs may want it."""
_ANSWER_SECONDS = 2.0
_ROOM_BYTES = 256
"""For what stands beside the workspace's path in the command line of a pipeline or a step."""
_HOME_PREFIX = ".standby-"
_HOME_NAME = re.compile(r"\.standby-(\d+)-\d+")


@dataclass(frozen=True, slots=True)
class Standby:
    """One that waits, or that has been taken."""

    popen: "subprocess.Popen[bytes]"
    home: OwnerFolder
    """Its own: what it wrote before it had an owner lies there, and nothing else ever."""

    @property
    def output(self) -> int:
        """The descriptor on which it says that it is ready."""
        assert self.popen.stdout is not None
        return self.popen.stdout.fileno()

    def forget_home(self) -> None:
        """Removes its folder; call it when the process has ended."""
        shutil.rmtree(self.home.root, ignore_errors=True)

    def end(self) -> None:
        """Kills it with all below it."""
        # Not stopped first, to count what is below it: this process may die in between, and a stopped process hears of
        # no end. It starts nothing more once its steps are there.
        for pid in (*find_descendants(self.popen.pid), self.popen.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.popen.wait()
        for pipe in (self.popen.stdin, self.popen.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        self.forget_home()


class StandbyKeeper:
    """Keeps at most one stand-by. Make it before the pool's processes are forked; each of them then has its own."""

    def __init__(self, settings: Settings, *, start_folder: Path, entry: tuple[str, ...]) -> None:
        """`entry`: the pipeline's program, which must be one that can wait."""
        self._settings = settings
        self._start_folder = start_folder
        self._entry = entry
        # A plugin's code is loaded before all else, and may change what a stand-by would have loaded by then.
        self._is_wanted = settings.standby != "off" and not has_plugins(settings.plugins)
        self._waiting: Standby | None = None
        self._numbers = count(1)

    @property
    def pids(self) -> tuple[int, ...]:
        """What must be spared when a job's processes are killed."""
        return () if self._waiting is None else (self._waiting.popen.pid,)

    def fill(self) -> None:
        """Starts a stand-by where none waits and there is room for one; returns at once. Never raises OSError."""
        if self._waiting is not None and self._waiting.popen.poll() is not None:
            self._discard("it ended while it waited")
        if self._waiting is not None or not self._is_wanted or not self._has_room():
            return
        try:
            self._waiting = self._start()
        except OSError as error:
            logger.warning("no stand-by was started: %s", error)

    def take(self, hand_over: HandOver) -> Standby | None:
        """Hands an attempt to the stand-by; None when none is ready: the attempt is started as if there were none.

        The process reads its secrets next. One that is not ready yet goes on getting ready, for the next attempt.
        """
        waiting = self._waiting
        if waiting is None or not has_line(waiting.output):
            return None
        line = read_line(waiting.output, timeout_seconds=_ANSWER_SECONDS)
        if line is None:
            self._discard("it has ended")
            return None
        readiness = Readiness.from_line(line)
        if not readiness.is_ready:
            self._is_wanted = False
            self._discard(f"{readiness.message}; until it is started anew, this worker keeps none")
            return None
        # Ready, it has nothing more to say before it is told: only its end.
        if has_line(waiting.output) or not _hand_over(waiting, hand_over):
            self._discard("it did not take the job")
            return None
        self._waiting = None
        return waiting

    def close(self) -> None:
        """Ends the stand-by, if there is one."""
        self._is_wanted = False
        if self._waiting is not None:
            self._waiting.end()
            self._waiting = None

    def _has_room(self) -> bool:
        return self._settings.standby == "on" or read_free_memory_bytes() >= _MIN_FREE_BYTES

    def _start(self) -> Standby:
        become_subreaper()
        settings = self._settings
        protect_data_folder(settings)
        cage = build_job_cage(settings)
        home = _make_home(settings, cage, number=next(self._numbers))
        env = build_pipeline_environment(
            os.environ,
            gpus=(),
            start_folder=self._start_folder,
            owner=home,
            shared_hub_cache=settings.shared_hub_cache,
        )
        for name in (ATTEMPT_TRACE, TRACEPARENT):
            # Of the job that runs now.
            env.pop(name, None)
        room = reserve_room(len(os.fsencode(settings.data_dir)) + _ROOM_BYTES)
        options = ("--network", settings.trainer_network, "--standby", room)
        try:
            popen = subprocess.Popen(
                [*cage.build_prefix(), sys.executable, "-P", *self._entry, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=env,
                start_new_session=True,
            )
        except OSError:
            shutil.rmtree(home.root, ignore_errors=True)
            raise
        return Standby(popen, home)

    def _discard(self, reason: str) -> None:
        logger.warning("a stand-by is not used: %s", reason)
        if self._waiting is not None:
            self._waiting.end()
            self._waiting = None


def _hand_over(standby: Standby, hand_over: HandOver) -> bool:
    assert standby.popen.stdin is not None
    if not write_line(standby.popen.stdin.fileno(), hand_over.to_line(), timeout_seconds=_ANSWER_SECONDS):
        return False
    return read_line(standby.output, timeout_seconds=_ANSWER_SECONDS) == ANSWER.strip()


def _make_home(settings: Settings, cage: Cage, *, number: int) -> OwnerFolder:
    home = OwnerFolder(settings.data_dir / OWNERS_FOLDER / f"{_HOME_PREFIX}{os.getpid()}-{number}")
    home.root.mkdir(parents=True, mode=0o700)
    for folder in (home.home, home.cache):
        folder.mkdir(mode=0o700)
    give_folder(home.root, cage.user)
    return home


def remove_left_homes(settings: Settings) -> None:
    """Removes the homes of stand-bys whose worker was killed."""
    for folder in (settings.data_dir / OWNERS_FOLDER).glob(f"{_HOME_PREFIX}*"):
        name = _HOME_NAME.fullmatch(folder.name)
        if name is not None and not _is_alive(int(name[1])):
            shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    # A zombie runs no more. The command's name stands in parentheses and may itself hold them.
    return text.rpartition(")")[2].split()[0] not in "ZX"
