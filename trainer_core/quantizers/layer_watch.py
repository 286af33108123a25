"""Sees to it that every planned layer is quantized, with finite numbers, and tells how far the work is."""

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from trainer_core.errors import QuantizationError

if TYPE_CHECKING:
    from torch.nn import Module

LayersDone = Callable[[int], None]
"""Is told how many layers are quantized so far."""

PROGRESS_INTERVAL_SECONDS = 1.0


class LayerWatch:
    """The layers that a method has finished, against those that it must finish."""

    def __init__(
        self,
        planned: Collection[str],
        *,
        on_layers_done: LayersDone,
        interval_seconds: float = PROGRESS_INTERVAL_SECONDS,
    ) -> None:
        self._planned = frozenset(planned)
        self._finished: set[str] = set()
        self._on_layers_done = on_layers_done
        self._interval_seconds = interval_seconds
        self._last_report = time.monotonic()

    def finish(self, name: str, layer: "Module") -> None:
        """Counts a layer. Raises QuantizationError if its weights or scales are not finite."""
        if not layer.weight.isfinite().all() or not layer.weight_scale.isfinite().all():  # type: ignore[operator]
            raise QuantizationError(f"{name} has weights that are not finite after quantization")
        self._finished.add(name)

    def report(self) -> None:
        """Tells how many layers are finished, at most once in the interval, and always when all are."""
        now = time.monotonic()
        num_finished = len(self._finished & self._planned)
        if num_finished == len(self._planned) or now - self._last_report >= self._interval_seconds:
            self._last_report = now
            self._on_layers_done(num_finished)

    def check_all_finished(self) -> None:
        """Raises QuantizationError naming a planned layer that is not finished."""
        missed = sorted(self._planned - self._finished)
        if missed:
            raise QuantizationError(
                f"no calibration sample reached {len(missed)} layers, the first is {missed[0]}; "
                "give more calibration data (quantization_max_samples)"
            )
