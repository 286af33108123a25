"""Which layers of a model a quantizer takes, and how many weights share a scale in each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer_core.errors import QuantizationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
    num_widest_columns: int
    """Input width of the widest layer to quantize."""

    @property
    def quantized(self) -> tuple[str, ...]:
        """All layers that are quantized."""
        return self.grouped + self.per_channel


def plan_layers(model: "PreTrainedModel", *, group_size: int = PER_CHANNEL, with_conv1d: bool = False) -> LayerPlan:
    """Sorts the linear layers by what their input width (columns of the weight) allows.

    A model's own kind of linear layer, as Falcon's, is none that the libraries take. `with_conv1d` counts GPT-2's
    Conv1D among them. Raises QuantizationError if the model has none.
    """
    widths = _linear_widths(model, with_conv1d=with_conv1d)
    ignored = tuple(name for name in widths if _stays_whole(name, model=model))
    names = [name for name in widths if name not in ignored]
    if not names:
        kind = type(model).__name__
        message = (
            f"{kind} has no linear layer that this quantizer could take; models such as Llama, Qwen or Mistral have, "
            "and quantizer_key='bnb' takes the Conv1D layers of GPT-2 as well"
        )
        raise QuantizationError(message, param="model_name_or_path")
    fits = {name: group_size != PER_CHANNEL and widths[name] % group_size == 0 for name in names}
    return LayerPlan(
        grouped=tuple(name for name in names if fits[name]),
        per_channel=tuple(name for name in names if not fits[name]),
        ignored=ignored,
        num_widest_columns=max(widths[name] for name in names),
    )


def check_experts(model: "PreTrainedModel") -> None:
    """Raises QuantizationError for a mixture of experts: transformers cannot load quantized ones again."""
    stacked = next((name for name, weight in model.named_parameters() if weight.ndim == 3 and "experts" in name), None)
    if stacked is not None:
        message = (
            f"{type(model).__name__} is a mixture of experts ({stacked}); quantized experts could not be loaded again. "
            "quantizer_key='bnb' quantizes the other layers"
        )
        raise QuantizationError(message, param="quantizer_key")


def describe_misfits(plan: LayerPlan, *, model: "PreTrainedModel", group_size: int) -> str | None:
    """A sentence on the layers that the group size does not divide; None when there are none."""
    if group_size == PER_CHANNEL or not plan.per_channel:
        return None
    widths = _linear_widths(model, with_conv1d=False)
    kinds = {name.rpartition(".")[2]: widths[name] for name in plan.per_channel}
    shown = ", ".join(f"{kind} ({width} columns)" for kind, width in sorted(kinds.items()))
    return (
        f"gptq_group_size={group_size} does not divide the width of {len(plan.per_channel)} layers: {shown}; they get "
        "one scale a row instead. A smaller gptq_group_size that divides them keeps more of the model"
    )


def _linear_widths(model: "PreTrainedModel", *, with_conv1d: bool) -> Mapping[str, int]:
    import torch
    from transformers.pytorch_utils import Conv1D

    widths = {}
    for name, part in model.named_modules():
        if type(part) is torch.nn.Linear:
            widths[name] = part.in_features
        elif with_conv1d and isinstance(part, Conv1D):
            widths[name] = part.weight.shape[0]
    return widths


def _stays_whole(name: str, *, model: "PreTrainedModel") -> bool:
    """The head decides every token, a router every expert: their few weights are worth their 16 bits."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return model.get_submodule(name) is head or name.endswith((".gate", ".router", ".shared_expert_gate"))
