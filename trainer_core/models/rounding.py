"""Rounding weights to few bits and back, as LoftQ needs it: what is stored stays in floating point."""

import torch
from torch import nn

_BLOCK_SIZE = 64
_NF2_QUANTILES = (1 - 0.9677083, 0.5, (0.5 + 0.9677083) / 2, 0.9677083)
"""Where the four levels of 2 bits lie in the normal distribution: one below zero, zero, two above."""


def round_weight(weight_OI: torch.Tensor, *, bits: int) -> torch.Tensor:
    """The weight (fp32, out_features by in_features) rounded to `bits` and back.

    8 bits have one scale a row; 4 and 2 bits are normal floats with one scale for 64 numbers.
    """
    smallest = torch.finfo(torch.float32).tiny
    if bits == 8:
        scales_O1 = weight_OI.abs().amax(dim=1, keepdim=True).clamp_min(smallest) / 127
        return (weight_OI / scales_O1).round() * scales_O1
    if bits == 4:
        from bitsandbytes.functional import dequantize_4bit, quantize_4bit

        packed, state = quantize_4bit(weight_OI.contiguous(), blocksize=_BLOCK_SIZE, quant_type="nf4")
        return dequantize_4bit(packed, state)
    levels = torch.special.ndtri(torch.tensor(_NF2_QUANTILES, device=weight_OI.device))
    levels = levels / levels.abs().max()
    num_weights = weight_OI.numel()
    blocks = nn.functional.pad(weight_OI.flatten(), (0, -num_weights % _BLOCK_SIZE)).view(-1, _BLOCK_SIZE)
    scales = blocks.abs().amax(dim=1, keepdim=True).clamp_min(smallest)
    nearest = torch.bucketize(blocks / scales, (levels[1:] + levels[:-1]) / 2)
    rounded: torch.Tensor = (levels[nearest] * scales).flatten()
    return rounded[:num_weights].view_as(weight_OI)
