"""llm-compressor's AWQ scaling, made to fail where it would quietly skip, and to run without a GPU.

Importing this module imports llm-compressor, which takes about 8 s.
"""

from typing import Any

import torch
from pydantic import PrivateAttr

from trainer_core.errors import QuantizationError
from trainer_core.quantizers.library_noise import import_quietly

import_quietly("llmcompressor")

from llmcompressor.modifiers.transform.awq import AWQModifier  # noqa: E402 - after the import that keeps quiet
from llmcompressor.pipelines.cache import IntermediatesCache  # noqa: E402


class _PageableCache(IntermediatesCache):
    """A cache that leaves its tensors in pageable memory: pinning fails on a host without an accelerator."""

    def pin_memory(self, batch_index: int, input_names: list[str] | None = None) -> None:
        """Does nothing."""


class StrictAWQModifier(AWQModifier):
    """AWQ that raises QuantizationError when it finds nothing to scale, or leaves out what it found.

    The library itself logs a line where a layer's outputs are not finite or no sample reached it, and goes on.
    """

    _planned: frozenset[str] = PrivateAttr(default=frozenset())

    def _set_resolved_mappings(self, model: Any) -> None:
        try:
            super()._set_resolved_mappings(model)
        # What the library raises for layers that it cannot match.
        except ValueError as error:
            raise _unknown_layers(model) from error
        self._planned = frozenset(mapping.smooth_name for mapping in self._resolved_mappings)
        if not self._planned:
            raise _unknown_layers(model)

    def _setup_activation_cache_hooks(self) -> None:
        super()._setup_activation_cache_hooks()
        # Without an accelerator everything lies in the same memory: nothing is offloaded either.
        if not torch.accelerator.is_available():
            for parent in self._parent_args_cache:
                self._parent_args_cache[parent] = _PageableCache(None, None)

    def on_finalize(self, state: Any, **kwargs: Any) -> bool:
        """Raises for layers that were not scaled."""
        missed = sorted(self._planned - {str(metric["layer_name"]) for metric in self._error_metrics})
        if missed:
            raise QuantizationError(
                f"awq could not scale the layers after {missed[0]} ({len(missed)} such places): their outputs are not "
                "finite, or no calibration sample reached them. Give more calibration data "
                "(quantization_max_samples), and see that the model itself gives finite outputs",
                param="quantization_max_samples",
            )
        return bool(super().on_finalize(state, **kwargs))


def _unknown_layers(model: Any) -> QuantizationError:
    return QuantizationError(
        f"awq does not know which layers of {type(model).__name__} belong together; use another quantizer_key, such as "
        "gptq",
        param="quantizer_key",
    )
