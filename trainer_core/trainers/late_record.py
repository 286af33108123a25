"""The figures of a step that are read while the device computes the next one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor


@dataclass(slots=True)
class LateRecord:
    """What will be logged of a step.

    To read a loss at once waits for the device, which then has nothing to do until the next step has been prepared.
    """

    values: dict[str, Any]
    """Known when the step had been given to the device."""
    num_steps: int
    """Whose losses are in the loss."""
    num_tokens_seen: int
    """By the training, up to this step."""
    start_time: float
    """Of the training."""
    _names: tuple[str, ...]
    _figures: torch.Tensor
    _arrival: Any

    @classmethod
    def begin(
        cls,
        figures: Mapping[str, torch.Tensor],
        *,
        values: dict[str, Any],
        num_steps: int,
        num_tokens_seen: int,
        start_time: float,
    ) -> "LateRecord":
        """Sends numbers of the device on their way to the host, behind all that the device still has to do."""
        whole = {name: each.full_tensor() if isinstance(each, DTensor) else each for name, each in figures.items()}
        # A norm of gradients that are offloaded is there already.
        values = values | {name: float(each) for name, each in whole.items() if not each.is_cuda}
        sent = {name: each.detach().float() for name, each in whole.items() if each.is_cuda}
        if not sent:
            return cls(values, num_steps, num_tokens_seen, start_time, (), torch.empty(0), None)
        on_host = torch.stack(list(sent.values())).to("cpu", non_blocking=True)
        arrival: Any = torch.Event(next(iter(sent.values())).device)
        arrival.record()
        return cls(values, num_steps, num_tokens_seen, start_time, tuple(sent), on_host, arrival)

    def read(self) -> dict[str, Any]:
        """Waits for the numbers; returns all that will be logged."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return self.values | dict(zip(self._names, self._figures.tolist(), strict=True))
