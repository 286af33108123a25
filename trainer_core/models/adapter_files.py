"""What lies in a folder with a LoRA adapter, and whether it is worth merging."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from trainer_core.checkpoints import ADAPTER_CONFIG
from trainer_core.errors import FuseError, ModelLoadError

WEIGHTS = "adapter_model.safetensors"
PARAM = "lora_model_local_path"
_FIRST_MATRIX = re.compile(r"lora_(embedding_)?A|lora_magnitude_vector")
_ABSOLUTE_BASE_FILES = (ADAPTER_CONFIG, "README.md")


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What reading all tensors of an adapter showed."""

    shapes: dict[str, tuple[int, ...]]
    """Shape by the tensor's name in the file."""
    changes_nothing: bool
    """Nothing but zeros is added to the base, as before the first step: merging gives back the base."""
    keeps_tying: bool
    """The head, trained whole, still shared its weight with the embeddings."""
    base_name: str | None
    """The base that the adapter says it was trained on."""


def read_adapter(folder: Path) -> AdapterFacts:
    """Reads every tensor once. Raises ModelLoadError for a folder without an adapter or with settings that cannot be
    read, FuseError for an adapter that is empty, holds values that are not finite, or is not what its settings say."""
    settings = _read_settings(folder)
    if not (folder / WEIGHTS).is_file():
        message = f"{folder} has no {WEIGHTS}; adapters are read from safetensors files only"
        raise ModelLoadError(message, param=PARAM)
    shapes: dict[str, tuple[int, ...]] = {}
    changes_nothing = True
    for name, tensor in _iterate_tensors(folder / WEIGHTS):
        if tensor.numel() == 0:
            message = f"the adapter in {folder} is empty ({name} has no values): it was saved by a part of a model only"
            raise FuseError(message, param=PARAM)
        if not torch.isfinite(tensor).all():
            message = f"the adapter in {folder} holds values that are not finite ({name}): its training has diverged"
            raise FuseError(message, param=PARAM)
        shapes[name] = tuple(tensor.shape)
        if not _FIRST_MATRIX.search(name) and bool(tensor.any()):
            changes_nothing = False
    if not shapes:
        raise FuseError(f"the adapter in {folder} is empty: it has no weights", param=PARAM)
    _check_rank(settings, shapes, folder=folder)
    return AdapterFacts(
        shapes=shapes,
        changes_nothing=changes_nothing,
        keeps_tying=bool(settings.get("ensure_weight_tying")),
        base_name=settings.get("base_model_name_or_path"),
    )


def _read_settings(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise ModelLoadError(f"{folder} holds no LoRA adapter: it has no {ADAPTER_CONFIG}", param=PARAM)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}", param=PARAM) from error
    if not isinstance(settings, dict) or not isinstance(settings.get("r", 8), int):
        raise ModelLoadError(f"{path} does not hold an adapter's settings", param=PARAM)
    if settings.get("peft_type") != "LORA":
        message = f"{folder} holds an adapter of the type {settings.get('peft_type')!r}; only LoRA adapters are fused"
        raise FuseError(message, param=PARAM)
    return settings


def _check_rank(settings: dict[str, Any], shapes: dict[str, tuple[int, ...]], *, folder: Path) -> None:
    """Adapters on parameters stack a rank for each expert, and patterns give layers ranks of their own."""
    if settings.get("rank_pattern") or settings.get("target_parameters"):
        return
    for name, shape in shapes.items():
        if name.endswith("lora_A.weight") and len(shape) == 2 and shape[0] != settings.get("r", 8):
            message = (
                f"the adapter in {folder} does not fit its own settings: {ADAPTER_CONFIG} says rank "
                f"{settings.get('r', 8)}, {name} has {shape[0]}; give the files of one training"
            )
            raise FuseError(message, param=PARAM)


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
        raise ModelLoadError(f"{path} cannot be read: {error}", param=PARAM) from error
