"""Whether a folder holds all the weights of the model that was trained: shards that nobody gathered are no weights."""

import math
from pathlib import Path
from typing import Any

from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from torch import nn

from trainer_core.errors import TrainerError
from trainer_core.models.adapter_files import WEIGHTS as ADAPTER_WEIGHTS
from trainer_core.models.quantization import is_quantized

Shapes = dict[str, tuple[int, ...]]


class IncompleteWeightsError(TrainerError):
    """Saved weights are missing, empty or cut: raised before the folder is marked complete."""

    code = "incomplete_weights"


def check_saved_weights(folder: Path, *, model: nn.Module) -> None:
    """Compares the shapes in the folder with the model's. Raises IncompleteWeightsError; reads no weights.

    A saved adapter may be larger than the one that was trained, where it also holds what its start took from the base.
    """
    if isinstance(model, PeftModel):
        _check_adapter(read_shapes([folder / ADAPTER_WEIGHTS]), model, folder=folder)
    elif hasattr(model, "save_pretrained") and not is_quantized(model):
        _check_model(read_shapes(sorted(folder.glob("model*.safetensors"))), model, folder=folder)


def read_shapes(paths: list[Path]) -> Shapes:
    """The shape of every tensor in safetensors files, by name. Raises IncompleteWeightsError."""
    shapes: Shapes = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise IncompleteWeightsError(f"{path} was saved, but cannot be read: {error}") from error
    return shapes


def find_whole_shape(parameter: Any) -> tuple[int, ...]:
    """A parameter's shape before it was cut: stage 3 of ZeRO leaves an empty tensor, a DTensor tells the whole."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _check_adapter(found: Shapes, model: PeftModel, *, folder: Path) -> None:
    parameters: dict[str, Any] = dict(model.named_parameters(remove_duplicate=False))
    wanted = get_peft_model_state_dict(model, state_dict=parameters, save_embedding_layers=False)
    for name, parameter in wanted.items():
        whole = find_whole_shape(parameter)
        if math.prod(found.get(name, ())) < math.prod(whole) or name not in found:
            raise IncompleteWeightsError(
                f"the adapter saved in {folder.name} is not whole: {name} has the shape {found.get(name)}, and was "
                f"{whole} in training; its shards were not gathered"
            )
    if not wanted:
        raise IncompleteWeightsError(f"the adapter saved in {folder.name} has no weights: nothing was trained")


def _check_model(found: Shapes, model: nn.Module, *, folder: Path) -> None:
    # Names may differ from the model's: some architectures are saved under older ones. Tied weights are saved once.
    num_saved = sum(math.prod(shape) for shape in found.values())
    num_wanted = sum(math.prod(find_whole_shape(each)) for each in model.parameters())
    if num_saved < num_wanted:
        raise IncompleteWeightsError(
            f"the model saved in {folder.name} is not whole: it has {num_saved:,} numbers, and had {num_wanted:,} in "
            "training; its shards were not gathered"
        )
