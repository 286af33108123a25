"""LoRA+: a higher learning rate for an adapter's B matrices than for its A matrices (arXiv 2402.12354)."""

from collections.abc import Collection, Iterator
from typing import Any

from peft.tuners.lora.layer import Embedding
from torch import nn

_ADAPTER_ON_EMBEDDING = ("lora_embedding_A", "lora_embedding_B")


def build_loraplus_groups(
    model: nn.Module,
    *,
    learning_rate: float,
    ratio: float,
    embedding_learning_rate: float,
    weight_decay: float,
    decayed: Collection[str],
) -> list[dict[str, Any]]:
    """Groups of the trainable parameters, always in the same order, empty ones left out.

    B matrices and vectors (biases, DoRA's magnitudes) learn at `ratio` times the learning rate, adapters on embeddings
    at their own, everything else, whole layers of `modules_to_save` included, at the learning rate. `decayed` names the
    parameters that weight decay acts on, as for any other training.
    """
    rates = {"a": learning_rate, "b": learning_rate * ratio, "embedding": embedding_learning_rate}
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {
        (kind, is_decayed): [] for kind in rates for is_decayed in (True, False)
    }
    for name, parameter, kind in _iterate_kinds(model):
        groups[kind, name in decayed].append(parameter)
    return [
        {"params": parameters, "lr": rates[kind], "weight_decay": weight_decay if is_decayed else 0.0}
        for (kind, is_decayed), parameters in groups.items()
        if parameters
    ]


def _iterate_kinds(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, str]]:
    """Yields the name of each trainable parameter, the parameter and the kind of group that it belongs to."""
    embeddings = {name for name, module in model.named_modules() if isinstance(module, Embedding)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner = next((name.partition(f".{part}.")[0] for part in _ADAPTER_ON_EMBEDDING if f".{part}." in name), None)
        if owner in embeddings:
            yield name, parameter, "embedding"
        elif ".lora_B." in name or parameter.ndim == 1:
            yield name, parameter, "b"
        else:
            yield name, parameter, "a"
