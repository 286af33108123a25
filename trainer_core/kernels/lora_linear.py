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
    """
    if self.disable_adapters or self.merged:
        plain: torch.Tensor = type(self).forward(self, x, *args, **kwargs)
        return plain
    (adapter,) = self.active_adapters
    first, second = self.lora_A[adapter].weight, self.lora_B[adapter].weight
    base = self.base_layer(x, *args, **kwargs)
    inner = functional.linear(self.lora_dropout[adapter](x), first.to(x.dtype)) * self.scaling[adapter]
    flat = torch.addmm(base.flatten(0, -2), inner.flatten(0, -2), second.to(x.dtype).T)
    return flat.view(base.shape)


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
