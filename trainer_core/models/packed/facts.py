"""What is told of a base with packed layers."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from trainer_core.config import Config
from trainer_core.models.packed.checkpoint import PER_CHANNEL, PackedCheckpoint

_DEFAULT_BITS = 4
_DEFAULT_GROUP_SIZE = 128


@dataclass(frozen=True, slots=True)
class PackedBaseFacts:
    """Most layers' width, and where they came from."""

    num_layers: int
    num_bits: int
    group_size: int
    layout: str

    def __str__(self) -> str:
        groups = "one scale a row" if self.group_size == PER_CHANNEL else f"groups of {self.group_size}"
        return f"{self.num_layers} layers in {self.num_bits} bits with {groups} ({self.layout} checkpoint)"


def describe_packed_base(model: nn.Module) -> PackedBaseFacts | None:
    """None for a model without packed layers."""
    settings: Any = getattr(getattr(model, "hf_quantizer", None), "quantization_config", None)
    checkpoint = getattr(settings, "checkpoint", None)
    if not isinstance(checkpoint, PackedCheckpoint):
        return None
    kinds = Counter((layer.num_bits, layer.group_size) for layer in checkpoint.layers.values())
    num_bits, group_size = kinds.most_common(1)[0][0]
    return PackedBaseFacts(len(checkpoint.layers), num_bits, group_size, checkpoint.layout.value)


def find_packing_mismatches(config: Config, facts: PackedBaseFacts) -> Iterator[str]:
    """A sentence for each of the Config's keys that asks for another width than the checkpoint has, which wins."""
    if config.gptq_bits not in (_DEFAULT_BITS, facts.num_bits):
        yield f"gptq_bits={config.gptq_bits} has no effect on a base that is quantized: it has {facts.num_bits} bits"
    if config.gptq_group_size not in (_DEFAULT_GROUP_SIZE, facts.group_size):
        yield (
            f"gptq_group_size={config.gptq_group_size} has no effect on a base that is quantized: its groups "
            f"have {facts.group_size} weights"
        )
