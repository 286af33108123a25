"""A quantized layer as compressed-tensors checkpoints of the format `pack-quantized` store it.

Codes are packed along the inputs of each output (`weight_packed`), zero points down the outputs (`weight_zero_point`,
absent in symmetric weights), `weight_scale` lies as outputs by groups, `weight_shape` holds outputs and inputs, and
`weight_g_idx` names each input's group where groups follow the activations.
"""

from collections.abc import Mapping

import torch

from trainer_core.models.packed.gptq_layout import has_equal_groups
from trainer_core.models.packed.packed_weight import PackedWeight

SUFFIXES = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")


def read_compressed_layer(tensors: Mapping[str, torch.Tensor], *, num_bits: int) -> PackedWeight:
    """The layer's weight."""
    scales_OG = tensors["weight_scale"]
    zeros_ZG = tensors.get("weight_zero_point")
    return PackedWeight(
        codes_OW=tensors["weight_packed"].contiguous(),
        scales_OG=scales_OG.contiguous(),
        zeros_GZ=None if zeros_ZG is None else zeros_ZG.t().contiguous(),
        groups_I=_read_groups(tensors.get("weight_g_idx"), num_groups=scales_OG.shape[1]),
        num_bits=num_bits,
        num_columns=int(tensors["weight_shape"][1]),
    )


def write_compressed_layer(weight: PackedWeight) -> dict[str, torch.Tensor]:
    """The tensors that this weight needs. Nothing is rounded: `read_compressed_layer` gives the same weight back."""
    tensors = {
        "weight_packed": weight.codes_OW,
        "weight_scale": weight.scales_OG,
        "weight_shape": torch.tensor(weight.shape, dtype=torch.int64),
    }
    if weight.zeros_GZ is not None:
        tensors["weight_zero_point"] = weight.zeros_GZ.t().contiguous()
    if weight.groups_I is not None:
        tensors["weight_g_idx"] = weight.groups_I
    return tensors


def _read_groups(groups_I: torch.Tensor | None, *, num_groups: int) -> torch.Tensor | None:
    # -1 everywhere is how a layer that was never reordered has been saved.
    if groups_I is None or bool((groups_I == -1).all()) or has_equal_groups(groups_I, num_groups=num_groups):
        return None
    return groups_I.int()
