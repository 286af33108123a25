"""A frozen linear layer that multiplies in 8-bit floating point."""

from typing import Any

import torch
from torch import nn

from trainer_core.kernels.lora_linear import find_lora_layers, is_plain

_FORMAT = torch.float8_e4m3fn
_LARGEST = 448.0
_MULTIPLE = 16
"""The kernel wants widths that are multiples of this."""


def find_fp8_obstacle(model: nn.Module) -> str | None:
    """Why a base cannot compute in 8-bit floating point here; None: at least one of its layers can."""
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        return "it needs a GPU that multiplies such numbers (compute capability 8.9)"
    if not any(_fits(layer) for layer in find_lora_layers(model)):
        return "no frozen linear layer in bf16 has an adapter on it"
    return None


def convert_base_to_fp8(model: nn.Module) -> int:
    """Replaces the base of each plain adapter in place, and returns how many there were; their 16-bit weights are gone.

    The memory stays the same: forward and backward pass want the weight in two orders, with scales of their own.
    """
    layers = [layer for layer in find_lora_layers(model) if _fits(layer)]
    for layer in layers:
        layer.base_layer = Fp8Linear(layer.base_layer)
    return len(layers)


class Fp8Linear(nn.Module):
    """Weights with a scale for each output (forward) and each input (backward), activations and gradients with a scale
    for each token, computed as they come. Results are in bf16.

    Shapes: T tokens, I inputs, O outputs.
    """

    def __init__(self, linear: nn.Linear) -> None:
        """Takes the weight over from a frozen layer in bf16 on the GPU."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight_OI = linear.weight.data
        by_output, by_input = round_rows(weight_OI), round_rows(weight_OI.T.contiguous())
        self.register_buffer("weight_OI", by_output[0], persistent=False)
        self.register_buffer("scale_O1", by_output[1], persistent=False)
        self.register_buffer("weight_IO", by_input[0], persistent=False)
        self.register_buffer("scale_I1", by_input[1], persistent=False)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product for activations in bf16 of any leading shape."""
        result: torch.Tensor = _Multiply.apply(  # type: ignore[no-untyped-call]
            x, self.weight_OI, self.scale_O1, self.weight_IO, self.scale_I1
        )
        return result if self.bias is None else result + self.bias


def round_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each row in 8 bits and its scale: fp32, of shape (rows, 1)."""
    scale = matrix.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / _LARGEST
    return (matrix.float() / scale).to(_FORMAT), scale


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_OI: torch.Tensor,
        scale_O1: torch.Tensor,
        weight_IO: torch.Tensor,
        scale_I1: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(weight_IO, scale_I1)
        return _multiply_rows(x, weight_OI, scale_O1)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        weight_IO, scale_I1 = ctx.saved_tensors
        return _multiply_rows(grads[0], weight_IO, scale_I1), None, None, None, None


def _multiply_rows(x: torch.Tensor, weight_OI: torch.Tensor, scale_O1: torch.Tensor) -> torch.Tensor:
    flat_TI = x.reshape(-1, x.shape[-1])
    rounded_TI, scale_T1 = round_rows(flat_TI)
    result_TO = torch._scaled_mm(
        rounded_TI,
        weight_OI.t(),
        scale_a=scale_T1,
        scale_b=scale_O1.t(),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return result_TO.view(*x.shape[:-1], -1)


def _fits(layer: Any) -> bool:
    base = layer.base_layer
    if type(base) is not nn.Linear or not is_plain(layer):
        return False
    has_widths = base.in_features % _MULTIPLE == 0 and base.out_features % _MULTIPLE == 0
    return has_widths and base.weight.dtype == torch.bfloat16 and base.weight.is_cuda and not base.weight.requires_grad
