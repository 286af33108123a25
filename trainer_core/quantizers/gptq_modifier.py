"""llm-compressor's GPTQ, made to fail where it would quietly round instead.

Importing this module imports llm-compressor, which takes about 8 s.
"""

import time
from collections.abc import Callable
from typing import Any

from pydantic import PrivateAttr

from trainer_core.errors import QuantizationError
from trainer_core.quantizers.library_noise import import_quietly

import_quietly("llmcompressor")

from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: E402 - after the import that keeps quiet

LayersDone = Callable[[int], None]
"""Is told how many layers are quantized so far."""


class StrictGPTQModifier(GPTQModifier):
    """GPTQ that raises QuantizationError for a layer that it cannot solve or that never saw a sample.

    The library itself rounds such a layer to the nearest value and logs a line, or leaves its scales unset.
    """

    _expected: frozenset[str] = PrivateAttr(default=frozenset())
    _solved: set[str] = PrivateAttr(default_factory=set)
    _on_layers_done: LayersDone | None = PrivateAttr(default=None)

    def watch(self, *, expected: frozenset[str], on_layers_done: LayersDone) -> None:
        """Names the layers that must be solved, and who is told how many are, between the model's parts."""
        self._expected = expected
        self._on_layers_done = on_layers_done

    def compress_module_list(self, module_list: list[Any]) -> None:
        """Solves the layers; raises at the first that fails, before the rest of the model takes its time."""
        super().compress_module_list(module_list)  # type: ignore[no-untyped-call]
        if self._rtn_fallback_module_names:
            names = ", ".join(self._rtn_fallback_module_names[:5])
            raise QuantizationError(
                f"GPTQ cannot solve {names}: the statistics of the layer's inputs are not positive definite or not "
                "finite. Give more or other calibration data (quantization_max_samples, quantization_dataset_id), and "
                "see that the model itself gives finite outputs"
            )
        for module in module_list:
            name = self._module_names[module]
            if not module.weight.isfinite().all() or not module.weight_scale.isfinite().all():
                raise QuantizationError(f"{name} has weights that are not finite after quantization")
            self._solved.add(name)

    def on_sequential_epoch_end(self, state: Any, event: Any, modules: list[Any], **kwargs: Any) -> None:
        """Solves what the finished part of the model holds, then reports."""
        super().on_sequential_epoch_end(state, event, modules, **kwargs)
        if self._on_layers_done is not None:
            self._on_layers_done(len(self._solved))

    def on_finalize(self, state: Any, **kwargs: Any) -> bool:
        """Raises for layers that no calibration sample reached."""
        missed = sorted(self._expected - self._solved)
        if missed:
            raise QuantizationError(
                f"no calibration sample reached {len(missed)} layers, the first is {missed[0]}; "
                "give more calibration data (quantization_max_samples)"
            )
        return bool(super().on_finalize(state, **kwargs))


class ProgressThrottle:
    """Passes a report on at most once in a number of seconds, the last one always."""

    def __init__(self, *, total: int, interval_seconds: float, report: LayersDone) -> None:
        self._total = total
        self._interval_seconds = interval_seconds
        self._report = report
        self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        """Takes a report of `done` of the total."""
        now = time.monotonic()
        if done >= self._total or now - self._last >= self._interval_seconds:
            self._last = now
            self._report(done)
