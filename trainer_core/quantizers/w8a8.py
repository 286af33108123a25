"""W8A8 by llm-compressor: weights and activations as 8-bit integers."""

from collections.abc import Sequence
from typing import Any, ClassVar

from trainer_core.quantizers.calibration_batches import Batching
from trainer_core.quantizers.compressor import CompressorQuantizer
from trainer_core.quantizers.layer_watch import LayerWatch


class W8A8Quantizer(CompressorQuantizer):
    """SmoothQuant (https://arxiv.org/abs/2211.10438), then GPTQ in 8 bits, over all linear layers but the head.

    One scale a row of weights, one a token found as it runs. `smoothing_strength`, `dampening_frac` and `actorder` as
    the Config says; strength 0 leaves SmoothQuant out.
    """

    # In one pass GPTQ would collect its statistics before the activations are smoothed.
    pipeline: ClassVar[str] = "independent"
    # SmoothQuant looks at every row, padding or not.
    batching: ClassVar[Batching] = Batching.EQUAL

    def build_recipe(self, watch: LayerWatch) -> Sequence[Any]:
        """The smoothing unless its strength is 0, then GPTQ."""
        from trainer_core.quantizers.gptq_modifier import StrictGPTQModifier
        from trainer_core.quantizers.smoothing_modifier import StrictSmoothingModifier

        modifier = StrictGPTQModifier(
            scheme="W8A8",
            targets=["Linear"],
            ignore=list(self.plan.ignored),
            dampening_frac=self.config.dampening_frac,
            actorder=self.config.actorder,
        )
        modifier.watch(watch)
        strength = self.config.smoothing_strength
        return [StrictSmoothingModifier(smoothing_strength=strength), modifier] if strength else [modifier]
