"""Which layers of a model GPTQ quantizes, and how many weights share a scale in each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer_core.errors import QuantizationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUPPORTED_BITS = (4, 8)
PER_CHANNEL = -1


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """The linear layers to quantize, and those left out."""

    grouped: tuple[str, ...]
    """Names of layers whose input width the group size divides."""
    per_channel: tuple[str, ...]
    """Names of layers with one scale a row: all of them for group size -1, else those that no group fits."""
    ignored: tuple[str, ...]
    """Names of linear layers that stay as they are: the head, and routers of experts."""

    @property
    def quantized(self) -> tuple[str, ...]:
        """All layers that are quantized."""
        return self.grouped + self.per_channel


def check_bits(num_bits: int) -> None:
    """Raises QuantizationError for a width that compressed-tensors cannot pack for the kernels that serve it."""
    if num_bits not in SUPPORTED_BITS:
        raise QuantizationError(f"gptq_bits={num_bits} cannot be quantized to; use 4 or 8", param="gptq_bits")


def plan_layers(model: "PreTrainedModel", *, group_size: int) -> LayerPlan:
    """Sorts the linear layers by what their input width (columns of the weight) allows.

    Raises QuantizationError if the model has no linear layer, as GPT-2 with its Conv1D.
    """
    widths = _linear_widths(model)
    ignored = tuple(name for name in widths if _stays_whole(name, model=model))
    names = [name for name in widths if name not in ignored]
    if not names:
        kind = type(model).__name__
        message = f"{kind} has no linear layer that GPTQ could quantize; models such as Llama, Qwen or Mistral have"
        raise QuantizationError(message, param="model_name_or_path")
    fits = {name: group_size != PER_CHANNEL and widths[name] % group_size == 0 for name in names}
    return LayerPlan(
        grouped=tuple(name for name in names if fits[name]),
        per_channel=tuple(name for name in names if not fits[name]),
        ignored=ignored,
    )


def describe_misfits(plan: LayerPlan, *, model: "PreTrainedModel", group_size: int) -> str | None:
    """A sentence on the layers that the group size does not divide; None when there are none."""
    if group_size == PER_CHANNEL or not plan.per_channel:
        return None
    widths = _linear_widths(model)
    kinds = {name.rpartition(".")[2]: widths[name] for name in plan.per_channel}
    shown = ", ".join(f"{kind} ({width} columns)" for kind, width in sorted(kinds.items()))
    return (
        f"gptq_group_size={group_size} does not divide the width of {len(plan.per_channel)} layers: {shown}; they get "
        "one scale a row instead. A smaller gptq_group_size that divides them keeps more of the model"
    )


def _linear_widths(model: "PreTrainedModel") -> Mapping[str, int]:
    import torch

    return {name: part.in_features for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}


def _stays_whole(name: str, *, model: "PreTrainedModel") -> bool:
    """The head decides every token, a router every expert: their few weights are worth their 16 bits."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return model.get_submodule(name) is head or name.endswith((".gate", ".router", ".shared_expert_gate"))
