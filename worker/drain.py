"""The word to all pool processes that the worker is going down: finish what can be finished, hand the rest back."""

import mmap


class DrainFlag:
    """One byte of memory that the pool's processes share: make it before they are forked."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    @property
    def is_set(self) -> bool:
        """True from the first call of `set` on, in every process."""
        return self._memory[0] != 0

    def set(self) -> None:
        """Asks every supervisor to stop its job and requeue it."""
        self._memory[0] = 1
