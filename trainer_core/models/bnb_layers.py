"""Quantizing the linear layers of a loaded model with bitsandbytes, as transformers does it while loading."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.integrations.bitsandbytes import Bnb4bitQuantize, Bnb8bitQuantize, replace_with_bnb_linear
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import AutoHfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from trainer_core.errors import ModelLoadError

_PLAIN_SUBCLASSES = ("FalconLinear",)
"""Subclasses of Linear that compute the same; transformers leaves them unquantized without a word."""


def quantize_linear_layers(model: PreTrainedModel, settings: Any) -> int:
    """Quantizes, in place, what is not quantized yet, all but the head and what is tied to it; returns the number of
    layers. Settings of another library than bitsandbytes are left to it.

    On a host with a GPU a model on the CPU moves to the current GPU, a layer at a time. Raises ModelLoadError for a
    model of which nothing is quantized in the end.
    """
    if not isinstance(settings, BitsAndBytesConfig):
        return 0
    quantizer: Any = AutoHfQuantizer.from_config(settings, pre_quantized=False)
    skipped = quantizer.get_modules_to_not_convert(model, settings.llm_int8_skip_modules, model._keep_in_fp32_modules)
    device = _choose_device(model)
    num_layers = 0
    for name, layer in list(_iterate_linear(model, skipped=skipped)):
        _quantize_layer(model, name=name, layer=layer, quantizer=quantizer, device=device)
        num_layers += 1
    if num_layers:
        _finish(model, quantizer=quantizer, device=device)
    elif not any(type(module).__name__ in ("Linear4bit", "Linear8bitLt") for module in model.modules()):
        param = "load_in_4bit" if settings.load_in_4bit else "load_in_8bit"
        message = f"{param}: a {type(model).__name__} has no layer that bitsandbytes quantizes; set {param}=False"
        raise ModelLoadError(message, param=param)
    return num_layers


def _finish(model: Any, *, quantizer: Any, device: torch.device) -> None:
    if model.device != device:
        model.to(device)
    model.is_quantized = True
    model.quantization_method = quantizer.quantization_config.quant_method
    model.hf_quantizer = quantizer
    quantizer.postprocess_model(model)


def _iterate_linear(model: PreTrainedModel, *, skipped: list[str]) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        is_linear = type(module) in (nn.Linear, Conv1D) or type(module).__name__ in _PLAIN_SUBCLASSES
        if is_linear and should_convert_module(name, skipped):
            yield name, module


def _quantize_layer(
    model: PreTrainedModel, *, name: str, layer: nn.Module, quantizer: Any, device: torch.device
) -> None:
    settings = quantizer.quantization_config
    if type(layer).__name__ in _PLAIN_SUBCLASSES:
        layer.__class__ = nn.Linear
    parent, _, leaf = name.rpartition(".")
    holder = nn.ModuleDict({leaf: layer})
    replace_with_bnb_linear(holder, quantization_config=settings)
    holder[leaf].train(layer.training)
    weight: Any = layer.weight
    bias: Any = layer.bias
    operation_class: Any = Bnb4bitQuantize if settings.load_in_4bit else Bnb8bitQuantize
    setattr(model.get_submodule(parent), leaf, holder[leaf])
    quantized: Any = operation_class(quantizer).convert({f"{name}.weight": weight.data.to(device)}, model=model)
    holder[leaf].weight = quantized[f"{name}.weight"]
    if bias is not None:
        holder[leaf].bias = nn.Parameter(bias.data.to(device), requires_grad=False)
    # The unquantized weight would otherwise live until the last layer is done.
    weight.data = torch.empty(0)


def _choose_device(model: PreTrainedModel) -> torch.device:
    is_placed = getattr(model, "hf_device_map", None) is not None
    if torch.cuda.is_available() and model.device.type == "cpu" and not is_placed:
        return torch.device("cuda", torch.cuda.current_device())
    return model.device
