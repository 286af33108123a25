"""A linear layer whose weight stays packed: it becomes floating point for each product, and is gone after it."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional

from trainer_core.models.packed.packed_weight import PackedWeight

_NAMES = ("packed_codes", "packed_scales", "packed_zeros", "packed_groups")


class PackedLinear(nn.Linear):
    """A frozen linear layer over packed integers.

    An nn.Linear for those who look for linear layers to put adapters on. Nothing of the weight's 16-bit form is kept
    for the backward pass, which makes it anew. Until `adopt`, and in a model's skeleton, it holds a checkpoint's raw
    tensors under their own names.
    """

    packed_codes: torch.Tensor
    packed_scales: torch.Tensor
    packed_zeros: torch.Tensor | None
    packed_groups: torch.Tensor | None

    def __init__(self, num_inputs: int, num_outputs: int, *, bias: nn.Parameter | None) -> None:
        nn.Module.__init__(self)
        self.in_features = num_inputs
        self.out_features = num_outputs
        self.register_parameter("bias", bias)
        self.num_bits = 0
        # transformers fills layers with random numbers whose own parameters it has not seen loaded.
        self._is_hf_initialized = True

    def hold_raw(self, tensors: dict[str, torch.Tensor]) -> None:
        """Makes room for a checkpoint's tensors; they may be without data."""
        for name, tensor in tensors.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def take_raw(self) -> dict[str, torch.Tensor]:
        """Removes the raw tensors and returns them."""
        names = [name for name in self._parameters if name not in ("bias", *_NAMES)]
        return {name: parameter.data for name in names if (parameter := self._parameters.pop(name)) is not None}

    def adopt(self, weight: PackedWeight) -> None:
        """Takes a weight over, without a copy."""
        self.num_bits = weight.num_bits
        tensors = (weight.codes_OW, weight.scales_OG, weight.zeros_GZ, weight.groups_I)
        for name, tensor in zip(_NAMES, tensors, strict=True):
            # Frozen parameters, not buffers: DDP would send buffers around before every forward pass.
            self.register_parameter(name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))
        if self.bias is not None:
            self.bias.requires_grad_(False)

    @property
    def packed_weight(self) -> PackedWeight:
        """The weight as it is kept."""
        return PackedWeight(
            codes_OW=self.packed_codes,
            scales_OG=self.packed_scales,
            zeros_GZ=self.packed_zeros,
            groups_I=self.packed_groups,
            num_bits=self.num_bits,
            num_columns=self.in_features,
        )

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weight in floating point, made for this call: changing it changes nothing."""
        return self.packed_weight.dequantize()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The product, computed in the input's number format, or in autocast's."""
        kind = input.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else input.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        output: torch.Tensor = _PackedProduct.apply(input.to(dtype), self, bias)  # type: ignore[no-untyped-call]
        return output

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """Moves the layer, but keeps the scales' number format when a whole model is cast, as DeepSpeed does: scales
        of fp16 lose three bits in bf16, and an adapter would be trained over another base than it is fused into."""
        held = self._parameters.get("packed_scales")
        before = None if held is None else held.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        after = self._parameters.get("packed_scales")
        if before is not None and after is not None and after.dtype != before.dtype:
            self.packed_scales = nn.Parameter(before.to(after.device), requires_grad=False)
        return self

    def extra_repr(self) -> str:
        """Sizes and bits, as in a printed model."""
        return f"in_features={self.in_features}, out_features={self.out_features}, num_bits={self.num_bits}"


class _PackedProduct(torch.autograd.Function):
    """x · Wᵀ + b with W made from the layer's integers, once forward and once backward."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, layer: PackedLinear, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.layer = layer
        ctx.dtype = input.dtype
        with torch.autocast(input.device.type, enabled=False):
            return functional.linear(input, layer.packed_weight.dequantize(input.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        if not ctx.needs_input_grad[0]:
            return None, None, None
        with torch.autocast(grads[0].device.type, enabled=False):
            return grads[0].to(ctx.dtype) @ ctx.layer.packed_weight.dequantize(ctx.dtype), None, None
