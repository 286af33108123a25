"""llm-compressor's GPTQ, made to fail where it would quietly round instead, with statistics taken at full speed.

Importing this module imports llm-compressor, which takes about 8 s.
"""

from typing import Any

import torch
from pydantic import PrivateAttr

from trainer_core.errors import QuantizationError
from trainer_core.quantizers.hessian_sums import HessianSums
from trainer_core.quantizers.layer_watch import LayerWatch
from trainer_core.quantizers.library_noise import import_quietly

import_quietly("llmcompressor")

from llmcompressor.core import active_session  # noqa: E402 - after the import that keeps quiet
from llmcompressor.modifiers.gptq import GPTQModifier  # noqa: E402


class StrictGPTQModifier(GPTQModifier):
    """GPTQ that raises QuantizationError for a layer that it cannot solve or that never saw a sample.

    The library itself rounds such a layer to the nearest value and logs a line, or leaves its scales unset.
    """

    _watch: LayerWatch = PrivateAttr()
    _sums: HessianSums = PrivateAttr(default_factory=HessianSums)
    _token_masks: list[torch.Tensor | None] = PrivateAttr(default_factory=list)

    def watch(self, watch: LayerWatch) -> None:
        """Sets who counts the layers; to be called before the modifier runs."""
        self._watch = watch

    def leave_out_padding(self, token_masks: list[torch.Tensor | None]) -> None:
        """Sets which rows of each batch, (samples, length), are tokens; None: all of them."""
        self._token_masks = token_masks

    def calibrate_module(self, module: torch.nn.Module, args: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        """Adds a batch to the layer's statistics."""
        batch: Any = active_session().state.current_batch_idx
        is_token = self._token_masks[batch] if self._token_masks else None
        try:
            self._sums.add(module, args[0], is_token=is_token)
        except ValueError as error:
            raise QuantizationError(f"GPTQ cannot calibrate {self._module_names[module]}: {error}") from error

    def compress_module_list(self, module_list: list[Any]) -> None:
        """Solves the layers; raises at the first that fails, before the rest of the model takes its time."""
        super().compress_module_list(module_list)  # type: ignore[no-untyped-call]
        if self._rtn_fallback_module_names:
            names = ", ".join(self._rtn_fallback_module_names[:5])
            raise QuantizationError(
                f"GPTQ cannot solve {names}: the statistics of the layer's inputs are not positive definite or not "
                "finite. Give more or other calibration data (quantization_max_samples, quantization_dataset_id) or a "
                "higher dampening_frac, and see that the model itself gives finite outputs",
                param="dampening_frac",
            )
        for module in module_list:
            self._watch.finish(self._module_names[module], module)

    def on_sequential_epoch_end(self, state: Any, event: Any, modules: list[Any], **kwargs: Any) -> None:
        """Solves what the finished part of the model holds, then reports."""
        for module, (hessian, num_samples) in self._sums.take_all().items():
            self._hessians[module] = hessian
            self._num_samples[module] = torch.tensor(float(num_samples))
        super().on_sequential_epoch_end(state, event, modules, **kwargs)
        self._watch.report()

    def on_finalize(self, state: Any, **kwargs: Any) -> bool:
        """Raises for layers that no calibration sample reached."""
        self._watch.check_all_finished()
        return bool(super().on_finalize(state, **kwargs))
