"""LoRA on a linear layer without the casts of whole activations that peft makes."""

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import nn
from torch.nn import functional


def lean_forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """What peft's layer computes with one plain adapter.

    The adapter's matrices, kept in fp32 for the optimizer, are cast to the activations' format, not the activations to
    theirs; scaled are the few numbers between the two products. The last product is added while it is written.

    Shapes: T tokens, I inputs, O outputs, R the adapter's rank.
    """
    if self.disable_adapters or self.merged:
        plain: torch.Tensor = type(self).forward(self, x, *args, **kwargs)
        return plain
    (adapter,) = self.active_adapters
    first_RI, second_OR = self.lora_A[adapter].weight.to(x.dtype), self.lora_B[adapter].weight.to(x.dtype)
    scaling, dropout = self.scaling[adapter], self.lora_dropout[adapter]
    flat_TI = x.flatten(0, -2)
    if _is_frozen_product(self.base_layer, x, dropout):
        result_TO: torch.Tensor = _AdaptedProduct.apply(  # type: ignore[no-untyped-call]
            flat_TI, self.base_layer.weight, self.base_layer.bias, first_RI, second_OR, scaling
        )
    else:
        base_TO = self.base_layer(x, *args, **kwargs).flatten(0, -2)
        inner_TR = functional.linear(dropout(flat_TI), first_RI) * scaling
        result_TO = torch.addmm(base_TO, inner_TR, second_OR.T)
    return result_TO.view(*x.shape[:-1], result_TO.shape[-1])


class _AdaptedProduct(torch.autograd.Function):
    """A frozen linear layer with an adapter on it, whose two parts are added up where the first one was written: in
    the forward pass, and in the backward pass the gradients of the activations.

    Shapes: T tokens, I inputs, O outputs, R the adapter's rank.
    """

    @staticmethod
    def forward(  # noqa: PLR0913
        ctx: Any,
        x_TI: torch.Tensor,
        weight_OI: torch.Tensor,
        bias_O: torch.Tensor | None,
        first_RI: torch.Tensor,
        second_OR: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        inner_TR = functional.linear(x_TI, first_RI) * scaling
        ctx.save_for_backward(x_TI, weight_OI, first_RI, second_OR, inner_TR)
        ctx.scaling = scaling
        return functional.linear(x_TI, weight_OI, bias_O).addmm_(inner_TR, second_OR.T)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (grad_TO,) = grads
        x_TI, weight_OI, first_RI, second_OR, inner_TR = ctx.saved_tensors
        grad_inner_TR = (grad_TO @ second_OR) * ctx.scaling
        grad_second_OR = grad_TO.T @ inner_TR
        grad_first_RI = grad_inner_TR.T @ x_TI
        grad_TI = (grad_TO @ weight_OI).addmm_(grad_inner_TR, first_RI) if ctx.needs_input_grad[0] else None
        return grad_TI, None, None, grad_first_RI, grad_second_OR, None


def _is_frozen_product(layer: nn.Module, x: torch.Tensor, dropout: nn.Module) -> bool:
    """Whether a layer is torch's own in x's format and stays as it is, and all of x is seen by the adapter. Compiled
    code adds up by itself."""
    return (
        type(layer) is nn.Linear
        and layer.weight.dtype == x.dtype
        and not layer.weight.requires_grad
        and not (layer.bias is not None and layer.bias.requires_grad)
        and (isinstance(dropout, nn.Identity) or not dropout.training)
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        and not torch.is_autocast_enabled(x.device.type)
        and not torch.compiler.is_compiling()
    )


def make_lean(model: nn.Module) -> int:
    """Gives `lean_forward` to every layer on which it is exact, and returns how many these are.

    Others (DoRA, several adapters, a bias of the adapter's own, embeddings, merged layers) stay as they are.
    """
    num_layers = 0
    for layer in find_lora_layers(model):
        if is_plain(layer):
            layer.forward = MethodType(lean_forward, layer)
            num_layers += 1
    return num_layers


def find_lora_layers(model: nn.Module) -> list[Any]:
    """All layers with an adapter."""
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def is_plain(layer: Any) -> bool:
    """Whether a layer is a linear one with one plain adapter on it."""
    adapters = layer.active_adapters
    if isinstance(layer, ParamWrapper) or not hasattr(layer.base_layer, "in_features"):
        return False
    if len(adapters) != 1 or adapters[0] not in layer.lora_A or layer.merged or layer.disable_adapters:
        return False
    matrices = (layer.lora_A[adapters[0]], layer.lora_B[adapters[0]])
    has_plain_matrices = all(type(each) is nn.Linear and each.bias is None for each in matrices)
    return has_plain_matrices and adapters[0] not in layer.lora_variant
