"""GPTQ by llm-compressor: weights in 2, 3, 4 or 8 bits, activations as they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from trainer_core.models.packed.gptq_files import convert_to_gptq_layout
from trainer_core.quantizers.calibration_batches import Batching
from trainer_core.quantizers.compressor import CompressorQuantizer
from trainer_core.quantizers.layer_watch import LayerWatch

SERVED_BITS = (4, 8)
"""Widths that vLLM and SGLang have kernels for; transformers loads the others too."""


class GPTQQuantizer(CompressorQuantizer):
    """GPTQ (https://arxiv.org/abs/2210.17323) over all linear layers but the head.

    `gptq_bits`, `gptq_group_size`, `dampening_frac` and `actorder` as the Config says, in blocks of 128 columns.
    Weights are symmetric around zero.
    """

    batching: ClassVar[Batching] = Batching.PADDED
    works_on_gpu: ClassVar[bool] = True

    def build(self) -> None:
        """Loads and renders; warns of a width that only transformers can load."""
        super().build()
        num_bits = self.config.gptq_bits
        if num_bits not in SERVED_BITS:
            self.warn(f"a model with gptq_bits={num_bits} is loaded by transformers only; vLLM and SGLang take 4 and 8")

    @property
    def group_size(self) -> int:
        """As the Config says."""
        return self.config.gptq_group_size

    def build_recipe(self, watch: LayerWatch) -> Sequence[Any]:
        """GPTQ alone."""
        from trainer_core.quantizers.gptq_modifier import StrictGPTQModifier

        modifier = StrictGPTQModifier(
            config_groups=self.build_groups(num_bits=self.config.gptq_bits, symmetric=True),
            ignore=list(self.plan.ignored),
            dampening_frac=self.config.dampening_frac,
            actorder=self.config.actorder,
        )
        modifier.watch(watch)
        modifier.leave_out_padding([batch.is_token for batch in self.batches])
        return [modifier]

    def save(self, folder: Path) -> None:
        """Writes weights, config and tokenizer, in the layout that `quantization_format` names."""
        super().save(folder)
        if self.config.quantization_format == "gptq":
            convert_to_gptq_layout(folder)
