"""Keeps the processes of running jobs, which may have the same user, out of one that waits for another owner's."""

import ctypes

_PR_SET_DUMPABLE = 4


def set_traceable(is_traceable: bool) -> None:
    """While it is not, only root may trace this process or read its memory. It is after an exec."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, int(is_traceable), 0, 0, 0)
