"""Running a part of a model a second time as it ran the first time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


class Surroundings:
    """What a part's results depend on beside its inputs: the states of random numbers, and autocast."""

    def __init__(self, device: torch.device) -> None:
        """Those of now, for a part on `device`."""
        self._device = device
        self._states = _read_random_states(device)
        self._is_autocast = torch.is_autocast_enabled(device.type)
        self._dtype = torch.get_autocast_dtype(device.type)

    @contextmanager
    def again(self) -> Iterator[None]:
        """They hold inside; random numbers go on outside as if nothing had been run."""
        now = _read_random_states(self._device)
        _set_random_states(self._device, self._states)
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.enable_grad())
                stack.enter_context(torch.autocast(self._device.type, dtype=self._dtype, enabled=self._is_autocast))
                yield
        finally:
            _set_random_states(self._device, now)


def _read_random_states(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


def _set_random_states(device: torch.device, states: tuple[torch.Tensor, torch.Tensor | None]) -> None:
    torch.set_rng_state(states[0])
    if states[1] is not None:
        torch.cuda.set_rng_state(states[1], device)
