"""The end of a process that has loaded torch: taking its modules apart takes longer than many a step."""

import atexit
import ctypes
import os
import sys
from contextlib import suppress
from typing import NoReturn


def leave_group() -> None:
    """Waits until the other ranks, where there are any, need this one no more: who ended before would break off what
    they still receive. For a rank that has trained to the same end as the others."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        # One that has died meanwhile is found by the launcher, and makes nothing undone here.
        with suppress(RuntimeError):
            distributed.barrier()


def end_process(status: int) -> NoReturn:
    """Ends this process at once, after its exit handlers and with all that was printed; threads are not waited for."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    # What libraries in C have printed.
    ctypes.CDLL(None).fflush(None)
    os._exit(status)
