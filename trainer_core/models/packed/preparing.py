"""What stays unquantized in a base with packed layers, made ready for training an adapter."""

import torch
from torch import nn

from trainer_core.models.packed.loading import find_packed_layers


def upcast_unpacked_parameters(model: nn.Module) -> None:
    """Casts norms, embeddings, head and biases from 16 bits to fp32, in place; a model without packed layers stays.

    peft does it for other quantized bases, but leaves those that it takes for GPTQ alone. The scales keep the
    checkpoint's number format, in which their products are computed.
    """
    packed = find_packed_layers(model).values()
    if not packed:
        return
    kept = {id(parameter) for layer in packed for name, parameter in layer.named_parameters() if name != "bias"}
    for parameter in model.parameters():
        if id(parameter) not in kept and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.to(torch.float32)
