"""AWQ by llm-compressor: weights in few bits, scaled beforehand where the activations are large."""

from collections.abc import Sequence
from typing import Any

from trainer_core.quantizers.compressor import CompressorQuantizer
from trainer_core.quantizers.layer_watch import LayerWatch


class AWQQuantizer(CompressorQuantizer):
    """AWQ (https://arxiv.org/abs/2306.00978) over all linear layers but the head.

    `gptq_bits` and `gptq_group_size` as the Config says; weights have a zero point, as AWQ's own checkpoints do.
    """

    @property
    def group_size(self) -> int:
        """As the Config says."""
        return self.config.gptq_group_size

    def build_recipe(self, watch: LayerWatch) -> Sequence[Any]:
        """The scaling, then rounding to the nearest value."""
        from trainer_core.quantizers.awq_modifier import StrictAWQModifier
        from trainer_core.quantizers.rounding_modifier import StrictRoundingModifier

        rounding = StrictRoundingModifier(
            config_groups=self.build_groups(num_bits=self.config.gptq_bits, symmetric=False),
            ignore=list(self.plan.ignored),
        )
        rounding.watch(watch)
        return [StrictAWQModifier(), rounding]
