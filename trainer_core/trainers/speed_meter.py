"""How well a training uses its device: padding, waits for data, and the share of the device's peak rate."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

_PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "H800": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense bf16 operations a second with fp32 sums, as the makers' data sheets give them."""


@dataclass(slots=True)
class SpeedMeter:
    """Counts of a window of steps; begun anew with each log record."""

    flops_per_token: float | None = None
    """Operations of forward and backward pass for one token, without attention. None: not known."""
    peak_flops: float | None = None
    """Operations a second that the device is made for. None: not known."""
    clock: Callable[[], float] = time.monotonic
    _num_tokens: int = 0
    _num_places: int = 0
    _wait_seconds: float = 0.0
    _started_at: float = field(default=0.0)

    def add_batch(self, *, num_tokens: int, num_places: int) -> None:
        """Counts tokens of samples, and the places in rows that they and the padding took."""
        self._num_tokens += num_tokens
        self._num_places += num_places

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what the device may have to wait for: the next batches."""
        started_at = self.clock()
        try:
            yield
        finally:
            self._wait_seconds += self.clock() - started_at

    def read(self, *, tokens_per_second: float | None) -> dict[str, float]:
        """`data_wait_percent` and `padding_percent` since the last reading, and `mfu` (0 to 1) where it is known."""
        now = self.clock()
        seconds = now - self._started_at
        figures: dict[str, float] = {}
        if self._started_at and seconds > 0:
            figures["data_wait_percent"] = round(100 * min(1.0, self._wait_seconds / seconds), 2)
        if self._num_places:
            figures["padding_percent"] = round(100 * (1 - self._num_tokens / self._num_places), 2)
        if self.flops_per_token and self.peak_flops and tokens_per_second:
            figures["mfu"] = round(tokens_per_second * self.flops_per_token / self.peak_flops, 4)
        self._num_tokens = self._num_places = 0
        self._wait_seconds, self._started_at = 0.0, now
        return figures


def find_peak_flops() -> float | None:
    """The first device's peak rate in bf16; None on a CPU or for a card that is not in the table."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((flops for key, flops in _PEAK_FLOPS.items() if key in name), None)


def count_flops_per_token(model: Any) -> float | None:
    """Two operations for each weight of a linear layer in the forward pass, as many for the gradient of its input, and
    for that of its weight where it is trained. None for a model of whose weights a token meets only some."""
    settings = model.config.get_text_config()
    if any(getattr(settings, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts")):
        return None
    total = 0.0
    for module in model.modules():
        if isinstance(module, nn.Linear) and not isinstance(module, nn.Embedding):
            num_weights = module.in_features * module.out_features
            total += num_weights * (6 if module.weight.requires_grad else 4)
    return total or None
