"""FP8 by llm-compressor: weights and activations as 8-bit floating point numbers."""

from collections.abc import Sequence
from typing import Any, ClassVar

from trainer_core.quantizers.compressor import CompressorQuantizer
from trainer_core.quantizers.layer_watch import LayerWatch


class FP8Quantizer(CompressorQuantizer):
    """FP8 (E4M3) over all linear layers but the head: one scale a row of weights, one a token found as it runs.

    It needs no calibration; the rows only serve to measure the loss before and after. Made on any device; fast on
    GPUs with FP8 (compute capability 8.9 and later), and loaded by transformers everywhere.
    """

    pipeline: ClassVar[str] = "datafree"
    needs_samples: ClassVar[bool] = False

    def build_recipe(self, watch: LayerWatch) -> Sequence[Any]:
        """Rounding alone."""
        from trainer_core.quantizers.rounding_modifier import StrictRoundingModifier

        rounding = StrictRoundingModifier(scheme="FP8_DYNAMIC", targets=["Linear"], ignore=list(self.plan.ignored))
        rounding.watch(watch)
        return [rounding]
