"""llm-compressor's SmoothQuant, made to fail where it would quietly smooth nothing.

Importing this module imports llm-compressor, which takes about 8 s.
"""

from typing import Any

from trainer_core.errors import QuantizationError
from trainer_core.quantizers.library_noise import import_quietly

import_quietly("llmcompressor")

from llmcompressor.modifiers.smoothquant import SmoothQuantModifier  # noqa: E402 - after the import that keeps quiet


class StrictSmoothingModifier(SmoothQuantModifier):
    """SmoothQuant that raises QuantizationError for a model whose layers it does not know."""

    def on_initialize(self, state: Any, **kwargs: Any) -> bool:
        """Finds the norms and the layers that they feed."""
        try:
            done = super().on_initialize(state, **kwargs)
        # What the library raises for layers that it cannot match, whatever the reason.
        except RuntimeError as error:
            raise _unknown_layers(state.model) from error
        if not self.resolved_mappings_:
            raise _unknown_layers(state.model)
        return bool(done)

    def on_sequential_epoch_end(self, state: Any, event: Any, *args: Any, **kwargs: Any) -> None:
        """Smooths what the finished part of the model holds. Raises for activations that are not finite."""
        for name, scale in (self.scales_ or {}).items():
            if not (scale.max_channel_vals - scale.min_channel_vals).isfinite().all():
                raise QuantizationError(f"the activations after {name} are not finite; see that the model itself works")
        super().on_sequential_epoch_end(state, event, *args, **kwargs)


def _unknown_layers(model: Any) -> QuantizationError:
    return QuantizationError(
        f"w8a8 does not know which norms of {type(model).__name__} feed which layers; set smoothing_strength=0 to "
        "leave the smoothing out, or use another quantizer_key",
        param="smoothing_strength",
    )
