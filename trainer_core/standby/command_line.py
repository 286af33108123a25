"""The command line of this process as others see it: a stand-by takes over the one that its job's process would have.

Whoever looks for the processes of an attempt finds them by their command line, which nobody but they can write. Its
room is what the process was started with, so that a stand-by is started with a long argument that means nothing.
"""

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_ARG_START, _ARG_END = 47, 48
"""Places in /proc/self/stat, counted from 0."""


def reserve_room(num_bytes: int) -> str:
    """An argument of that length."""
    return "." * num_bytes


def take_over(argv: Sequence[str]) -> None:
    """Shows `argv` as this process's command line. Raises ValueError when there is too little room for it."""
    shown = b"\0".join(os.fsencode(argument) for argument in argv) + b"\0"
    text = Path("/proc/self/stat").read_text()
    # The command's name stands in parentheses and may itself hold spaces and parentheses.
    fields = ["", "", *text.rpartition(")")[2].split()]
    start, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    if len(shown) > end - start:
        raise ValueError(f"a command line of {len(shown)} bytes in the room of one of {end - start}")
    # The last byte stays 0: else the kernel shows what lies behind.
    ctypes.memmove(start, shown.ljust(end - start, b"\0"), end - start)
