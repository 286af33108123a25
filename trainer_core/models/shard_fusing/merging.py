"""One layer's merge by peft itself, with its weights read for the moment that it takes."""

from collections.abc import Mapping
from math import prod

import torch
from torch import nn

from trainer_core.errors import FuseError
from trainer_core.models.adapter_files import PARAM
from trainer_core.models.fusing import describe_broken_merge
from trainer_core.models.shard_fusing.plan import PREFIX, ShardPlan
from trainer_core.models.shard_fusing.tensor_places import TensorPlace, read_tensor, write_tensor

_ADAPTER = "default"


class LayerMerge:
    """Reads a layer's weight (and bias, where the adapter changes it), merges, and writes both."""

    def __init__(self, plan: ShardPlan, name: str, targets: Mapping[str, TensorPlace], *, device: torch.device) -> None:
        self._plan = plan
        self._name = name
        self._layer = plan.layers[name]
        self._targets = targets
        self._device = device
        self._is_pinned = device.type == "cuda"
        parts = ("weight", "bias") if self._layer.lora_bias.get(_ADAPTER) else ("weight",)
        self._parts = {part: f"{name}.{part}" for part in parts}

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that it writes."""
        return tuple(self._parts.values())

    @torch.no_grad()
    def run(self) -> None:
        """Raises FuseError for a result that is not finite."""
        self._fill()
        # The weight is ours to change: peft's safe merge copies it first, and looks at it in ten times the time.
        self._layer.merge()
        base = self._layer.get_base_layer()
        for part, name in self._parts.items():
            merged = getattr(base, part).data
            if not all(bound.isfinite() for bound in merged.aminmax()):
                raise FuseError(f"{describe_broken_merge()} ({self._name})", param=PARAM)
            self._write(merged, self._targets[name])
        for name, weight in list(self._layer.named_parameters()):
            _set_weight(self._layer, name, torch.empty_like(weight, device="meta"))

    def _fill(self) -> None:
        """Gives the layer its values, in the fused model's number format, as peft does with a whole model."""
        for part, name in self._parts.items():
            _set_weight(self._layer, f"base_layer.{part}", self._cast(self._read(name)))
        for name in [name for name, _ in self._layer.named_parameters()]:
            if not name.startswith("base_layer."):
                # Without the adapter's name, as in its file; what makes DoRA's magnitude a module is not in it either.
                key = f"{PREFIX}{self._name}.{name.replace(f'.{_ADAPTER}', '')}"
                found = self._plan.adapter.get(key)
                found = self._plan.adapter[key.removesuffix(".weight")] if found is None else found
                _set_weight(self._layer, name, self._cast(found))

    def _cast(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(self._device, self._plan.dtype)

    def _read(self, name: str) -> torch.Tensor:
        if name in self._plan.replaced:
            return self._plan.adapter[self._plan.replaced[name]].clone()
        place = self._plan.places[name]
        # From pinned memory the copy to the GPU takes a tenth of the time, and pinned memory is used again.
        weight = torch.empty(place.shape, dtype=place.dtype, pin_memory=self._is_pinned)
        read_tensor(weight, place)
        return weight

    def _write(self, merged: torch.Tensor, place: TensorPlace) -> None:
        if merged.device.type != "cpu":
            on_host = torch.empty(merged.shape, dtype=merged.dtype, pin_memory=self._is_pinned)
            merged = on_host.copy_(merged)
        write_tensor(merged.contiguous(), place)


def _set_weight(layer: nn.Module, name: str, weight: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(layer.get_submodule(owner), leaf, nn.Parameter(weight, requires_grad=False))


def count_merge_bytes(plan: ShardPlan, layer: str, *, on_host: bool) -> int:
    """Host memory that a layer's merge takes at its peak; on the GPU it is a buffer's for the way there and back."""
    place = plan.places[f"{layer}.weight"]
    num_elements = prod(place.shape)
    if not on_host:
        return num_elements * (place.dtype.itemsize + plan.dtype.itemsize)
    # The weight as it was read, its copy in the fused format, a product in that format, and before it in fp32, scaled.
    return num_elements * (place.dtype.itemsize + 2 * plan.dtype.itemsize + 8)
