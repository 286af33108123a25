"""Ends what an installation started when its starter is gone without having done so; standard library only.

`python guard.py`: lines on stdin name processes (`pid 12`) and folders (`folder /tmp/x`). At end-of-file the processes
that are still the same ones are killed with all below them, and the folders are removed.
"""

import os
import shutil
import signal
import sys
from pathlib import Path


def read_start(pid: int) -> str:
    """When the process began, in the kernel's ticks; empty for one that is gone. With its pid it names a process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def list_children(pid: int) -> list[int]:
    """The processes that it started and that have not been left to another."""
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill_tree(pid: int) -> None:
    """The process first, so that it starts nothing anew."""
    below = list_children(pid)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    for child in below:
        kill_tree(child)


def main() -> None:
    """Reads until the starter is gone, then clears up."""
    # A terminal's Ctrl+C is for the starter, which clears up by itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    starts: dict[int, str] = {}
    folders: list[str] = []
    for line in sys.stdin:
        kind, _, value = line.strip().partition(" ")
        if kind == "pid":
            starts[int(value)] = read_start(int(value))
        elif kind == "folder":
            folders.append(value)
    for pid, start in starts.items():
        if start and read_start(pid) == start:
            kill_tree(pid)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
