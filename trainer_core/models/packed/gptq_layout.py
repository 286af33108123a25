"""A quantized layer as GPTQ checkpoints store it: `qweight`, `qzeros`, `scales`, `g_idx`.

Codes are packed down the inputs (`qweight`: words by outputs), zero points along the outputs (`qzeros`: groups by
words), scales lie as groups by outputs, `g_idx` names each input's group. The first version of the format, still the
usual one, stores each zero point less one; `gptq_v2` stores it as it is. See docs/decisions/0007.
"""

from collections.abc import Mapping

import torch

from trainer_core.models.packed.bit_packing import pack_rows, unpack_rows
from trainer_core.models.packed.packed_weight import PackedWeight

SUFFIXES = ("qweight", "qzeros", "scales", "g_idx")
FORMAT_WITH_ZERO_LESS_ONE = "gptq"
FORMAT_WITH_PLAIN_ZERO = "gptq_v2"
FORMATS = (FORMAT_WITH_ZERO_LESS_ONE, FORMAT_WITH_PLAIN_ZERO)


# Shapes: as in packed_weight.py, K words that hold I codes, down the inputs.
def read_gptq_layer(
    tensors: Mapping[str, torch.Tensor], *, num_bits: int, checkpoint_format: str, group_size: int, symmetric: bool
) -> PackedWeight:
    """The layer's weight. `group_size` counts only where `g_idx` is missing, as in the oldest checkpoints.

    `symmetric` allows zero points in the middle to be left out of the result; others are kept whatever it says.
    """
    qweight_KO, scales_GO = tensors["qweight"], tensors["scales"]
    num_groups, num_outputs = scales_GO.shape
    groups_I = tensors.get("g_idx")
    num_columns = groups_I.numel() if groups_I is not None else qweight_KO.shape[0] * 32 // num_bits
    if groups_I is None and group_size > 0:
        groups_I = torch.arange(num_columns, dtype=torch.int32, device=qweight_KO.device) // group_size
    stored_GO = unpack_rows(tensors["qzeros"], num_bits=num_bits, num_columns=num_outputs)
    zeros_GO = _shift(stored_GO, by=_offset_of(checkpoint_format), num_bits=num_bits)
    is_centred = symmetric and bool((zeros_GO == 1 << (num_bits - 1)).all())
    return PackedWeight(
        codes_OW=qweight_KO.t().contiguous(),
        scales_OG=scales_GO.t().contiguous(),
        zeros_GZ=None if is_centred else pack_rows(zeros_GO, num_bits=num_bits),
        groups_I=None if groups_I is None or has_equal_groups(groups_I, num_groups=num_groups) else groups_I.int(),
        num_bits=num_bits,
        num_columns=num_columns,
    )


def write_gptq_layer(weight: PackedWeight, *, checkpoint_format: str) -> dict[str, torch.Tensor]:
    """The four tensors. Nothing is rounded: `read_gptq_layer` gives the same weight back."""
    num_outputs, num_columns = weight.shape
    num_groups = weight.scales_OG.shape[1]
    if weight.zeros_GZ is None:
        zeros_GO = torch.full(
            (num_groups, num_outputs), weight.middle, dtype=torch.uint8, device=weight.codes_OW.device
        )
    else:
        zeros_GO = unpack_rows(weight.zeros_GZ, num_bits=weight.num_bits, num_columns=num_outputs)
    stored_GO = _shift(zeros_GO, by=-_offset_of(checkpoint_format), num_bits=weight.num_bits)
    groups_I = weight.groups_I
    if groups_I is None:
        columns_I = torch.arange(num_columns, dtype=torch.int32, device=weight.codes_OW.device)
        groups_I = columns_I // (num_columns // num_groups)
    return {
        "qweight": weight.codes_OW.t().contiguous(),
        "qzeros": pack_rows(stored_GO, num_bits=weight.num_bits),
        "scales": weight.scales_OG.t().contiguous(),
        "g_idx": groups_I,
    }


def has_equal_groups(groups_I: torch.Tensor, *, num_groups: int) -> bool:
    """Whether the columns belong to groups of equal width, one after the other."""
    num_columns = groups_I.numel()
    if num_groups == 0 or num_columns % num_groups:
        return False
    in_order_I = torch.arange(num_columns, device=groups_I.device) // max(num_columns // num_groups, 1)
    return torch.equal(groups_I.to(in_order_I.dtype), in_order_I)


def _offset_of(checkpoint_format: str) -> int:
    return 1 if checkpoint_format == FORMAT_WITH_ZERO_LESS_ONE else 0


def _shift(zeros: torch.Tensor, *, by: int, num_bits: int) -> torch.Tensor:
    """Adds within the width of a value: less than nothing is the largest value, as the first kernels computed it."""
    return (zeros.to(torch.int16) + by).bitwise_and_((1 << num_bits) - 1).to(torch.uint8)
