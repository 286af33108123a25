"""Keeps processes from outliving whoever started them: standard library only, Linux only.

The starter holds the write end of a pipe that is the child's stdin. When the starter is gone, by whatever signal, the
kernel closes it; the child reads end-of-file and ends everything below itself. A child subreaper is handed its
orphaned grandchildren, so that none of them escapes by starting a session of its own or by outliving its parent.

As a program, `python -m trainer_core.watchdog -- argv…` gives these manners to a program that has none.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import FrameType

_PR_SET_CHILD_SUBREAPER = 36
_STDIN = 0
_EXIT_ORPHANED = 70
"""Exit status of a process that ended because its starter was gone."""
_KILL_PAUSE_SECONDS = 0.01


def become_subreaper() -> None:
    """Makes this process the parent of all its descendants that lose theirs. Not inherited by a fork."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def find_descendants(pid: int | None = None, *, spared: Collection[int] = ()) -> list[int]:
    """Returns the live processes below `pid` (default: this process), children before grandchildren.

    `spared` are left out with all below them; so are zombies: they hold no memory and no device.
    """
    children: dict[int, list[int]] = {}
    for child, parent, state in _iterate_processes():
        if state not in "ZX":
            children.setdefault(parent, []).append(child)
    found: list[int] = []
    queue = [os.getpid() if pid is None else pid]
    while queue:
        below = [child for child in children.get(queue.pop(0), []) if child not in spared]
        found.extend(below)
        queue.extend(below)
    return found


def kill_descendants(*, timeout_seconds: float = 30.0, spared: Collection[int] = ()) -> bool:
    """Sends SIGKILL to every descendant of this process until none is left; returns False if some outlived it.

    Children in `spared`, with what is below them, live on.
    Call it in a child subreaper, or processes whose parent dies first slip away. Reaps children that have ended: wait
    for a `Popen` whose exit status matters before.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        pids = find_descendants(spared=spared)
        for pid in pids:
            _kill(pid)
        _reap_children()
        if not pids:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_KILL_PAUSE_SECONDS)


def read_stdin_line(*, max_bytes: int = 1 << 20) -> bytes:
    """Reads one line from stdin without buffering, so that the rest is left for `exit_when_stdin_closes`.

    Returns what came before the newline; fewer bytes, perhaps none, when stdin closed first. Raises ValueError when
    the line is longer than `max_bytes`.
    """
    line = bytearray()
    while len(line) <= max_bytes:
        byte = os.read(_STDIN, 1)
        if byte in (b"", b"\n"):
            return bytes(line)
        line += byte
    raise ValueError(f"the first line on stdin is longer than {max_bytes} bytes")


def exit_when_stdin_closes(on_close: Callable[[], object]) -> threading.Thread:
    """Starts a daemon thread that reads stdin; at end-of-file it calls `on_close` and ends the process at once.

    The thread needs the GIL: a process that computes in C for seconds hears it late, so a light process above it
    should listen as well.
    """

    def watch() -> None:
        while _read_stdin():
            pass
        try:
            on_close()
        finally:
            os._exit(_EXIT_ORPHANED)

    thread = threading.Thread(target=watch, name="stdin-watch", daemon=True)
    thread.start()
    return thread


def exit_when_stdin_hangs_up(on_close: Callable[[], object]) -> threading.Thread:
    """As `exit_when_stdin_closes`, for a pipe that several processes share: it reads nothing, for what is in the pipe
    may be meant for another of them."""

    def watch() -> None:
        poll = select.poll()
        # No event is asked for: a hang-up is always told.
        poll.register(_STDIN, 0)
        poll.poll()
        try:
            on_close()
        finally:
            os._exit(_EXIT_ORPHANED)

    thread = threading.Thread(target=watch, name="stdin-watch", daemon=True)
    thread.start()
    return thread


def run_watched(argv: Sequence[str]) -> int:
    """Runs a program and returns its exit status (negative: the signal that ended it).

    SIGTERM and SIGINT are handed on to it; when stdin closes, it and all its descendants are killed.
    """
    become_subreaper()
    stopping: list[int] = []
    is_orphaned = threading.Event()
    program: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        stopping.append(number)
        if program is not None:
            program.send_signal(number)

    def kill_all() -> None:
        is_orphaned.set()
        kill_descendants()

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, hand_on)
    exit_when_stdin_closes(kill_all)
    program = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    if stopping:
        program.send_signal(stopping[-1])
    status = program.wait()
    kill_descendants()
    # Whoever reaped the killed program first has its status: it may have been the watch.
    return _EXIT_ORPHANED if is_orphaned.is_set() else status


def _read_stdin() -> bool:
    try:
        return os.read(_STDIN, 4096) != b""
    except OSError:
        # A closed or revoked descriptor tells the same as end-of-file.
        return False


def _iterate_processes() -> Iterator[tuple[int, int, str]]:
    """Yields pid, parent's pid and state letter of every process that this one may see."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            text = Path(entry.path, "stat").read_text(errors="replace")
        except OSError:
            continue
        # The command's name stands in parentheses and may itself hold spaces and parentheses.
        state, parent = text.rpartition(")")[2].split()[:2]
        yield int(entry.name), int(parent), state


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _reap_children() -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def main(arguments: Sequence[str]) -> int:
    """The program: `-- argv…`. Returns the exit status, 128 + n for a program that signal n ended."""
    if len(arguments) < 2 or arguments[0] != "--":
        sys.stderr.write("usage: python -m trainer_core.watchdog -- program [argument…]\n")
        return 2
    status = run_watched(arguments[1:])
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
