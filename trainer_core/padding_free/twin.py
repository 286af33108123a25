"""A small model of another's class: what its code does with rows can be tried on it while the other is in shards."""

import copy
from typing import Any

import torch
from torch import nn

_NUM_WORDS = 256


def build_twin(model: Any, *, device: torch.device) -> Any:
    """A model of the same class, settings and widths, with random weights on `device`, few words and few layers.

    It has each kind of layer at least once and two layers at least. bf16 on a GPU, as kernels want it, else fp32. No
    random number of the training is used up. `model`: one of transformers, below its adapters.
    """
    settings = copy.deepcopy(model.config)
    text_settings = settings.get_text_config()
    _keep_layers(text_settings, count=_count_layers(text_settings))
    text_settings.vocab_size = min(text_settings.vocab_size, _NUM_WORDS)
    for each in {id(each): each for each in (settings, text_settings)}.values():
        each.pad_token_id = None
    previous = torch.get_default_dtype()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16 if device.type == "cuda" else torch.float32)
        try:
            twin = type(model)(settings)
        finally:
            torch.set_default_dtype(previous)
        _scale_weights(twin)
    return twin


def _count_layers(settings: Any) -> int:
    kinds = list(getattr(settings, "layer_types", None) or ())
    needed = max((kinds.index(kind) + 1 for kind in set(kinds)), default=2)
    # Of two layers the second sees what the first one has mixed.
    num_layers: int = settings.num_hidden_layers
    return min(num_layers, max(2, needed))


def _keep_layers(settings: Any, *, count: int) -> None:
    """Settings for each layer are lists as long as there are layers."""
    num_layers = settings.num_hidden_layers
    for name, value in list(vars(settings).items()):
        if isinstance(value, list | tuple) and len(value) == num_layers:
            setattr(settings, name, value[:count])
    settings.num_hidden_layers = count


@torch.no_grad()
def _scale_weights(model: nn.Module) -> None:
    """As large as they are after training: with the small ones of a beginning every token attends to all alike."""
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.normal_(std=weight.shape[-1] ** -0.5)
