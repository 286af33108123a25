"""What lies in a folder with a LoRA adapter, and whether it is worth merging."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from trainer_core.checkpoints import ADAPTER_CONFIG
from trainer_core.errors import FuseError, ModelLoadError

WEIGHTS = "adapter_model.safetensors"
_ABSOLUTE_BASE_FILES = (ADAPTER_CONFIG, "README.md")


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What reading all tensors of an adapter showed."""

    shapes: dict[str, tuple[int, ...]]
    """Shape by the tensor's name in the file."""
    changes_nothing: bool
    """All `lora_B` are zero, as before the first step: merging gives back the base."""


def read_adapter(folder: Path) -> AdapterFacts:
    """Reads every tensor once. Raises ModelLoadError for a folder without an adapter, FuseError for one that is empty
    or holds values that are not finite."""
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelLoadError(
            f"{folder} holds no LoRA adapter: it has no {ADAPTER_CONFIG}", param="lora_model_local_path"
        )
    if not (folder / WEIGHTS).is_file():
        message = f"{folder} has no {WEIGHTS}; adapters are read from safetensors files only"
        raise ModelLoadError(message, param="lora_model_local_path")
    shapes: dict[str, tuple[int, ...]] = {}
    changes_nothing = True
    for name, tensor in _iterate_tensors(folder / WEIGHTS):
        if not torch.isfinite(tensor).all():
            message = f"the adapter in {folder} holds values that are not finite ({name}): its training has diverged"
            raise FuseError(message, param="lora_model_local_path")
        shapes[name] = tuple(tensor.shape)
        if "lora_A" not in name and "lora_embedding_A" not in name and bool(tensor.any()):
            changes_nothing = False
    if not shapes:
        raise FuseError(f"the adapter in {folder} is empty: it has no weights", param="lora_model_local_path")
    return AdapterFacts(shapes=shapes, changes_nothing=changes_nothing)


def name_base_model(folder: Path, *, loaded_from: str, model_id: str | None) -> None:
    """Writes the model's public name where peft has written the folder that it was loaded from: such a path means
    nothing on another machine. Nothing changes without a `model_id`."""
    if model_id is None or model_id == loaded_from:
        return
    for path in (folder / name for name in _ABSOLUTE_BASE_FILES):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            named = re.sub(rf"{re.escape(loaded_from)}(?![\w/.-])", lambda _: model_id, text)
            if named != text:
                path.write_text(named, encoding="utf-8")


def _iterate_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                yield name, file.get_tensor(name)
    except SafetensorError as error:
        raise ModelLoadError(f"{path} cannot be read: {error}", param="lora_model_local_path") from error
