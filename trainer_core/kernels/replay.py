"""Running a part of a model a second time as it ran the first time."""

from collections.abc import Iterator
from contextlib import contextmanager

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
        """They hold inside, where gradients are recorded; outside random numbers go on as if nothing had been run."""
        now = _read_random_states(self._device)
        _set_random_states(self._device, self._states)
        try:
            autocast = torch.autocast(self._device.type, dtype=self._dtype, enabled=self._is_autocast)
            with torch.enable_grad(), autocast:
                yield
        finally:
            _set_random_states(self._device, now)

    def have_drawn(self) -> bool:
        """Whether random numbers have been drawn since."""
        return not all(
            torch.equal(state, now) for state, now in zip(self._states, _read_random_states(self._device), strict=True)
        )


def _read_random_states(device: torch.device) -> list[torch.Tensor]:
    on_device = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *on_device]


def _set_random_states(device: torch.device, states: list[torch.Tensor]) -> None:
    torch.set_rng_state(states[0])
    for state in states[1:]:
        torch.cuda.set_rng_state(state, device)
