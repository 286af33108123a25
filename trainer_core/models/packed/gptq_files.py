"""Rewriting a model folder from one layout of quantized layers into the other, without rounding anything."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from trainer_core.errors import ModelLoadError
from trainer_core.models.packed.checkpoint import PackedCheckpoint, PackedLayout, read_packed_checkpoint
from trainer_core.models.packed.checkpoint_settings import build_compressed_settings, build_gptq_settings
from trainer_core.models.packed.compressed_layout import write_compressed_layer
from trainer_core.models.packed.gptq_layout import FORMAT_WITH_PLAIN_ZERO, FORMAT_WITH_ZERO_LESS_ONE, write_gptq_layer
from trainer_core.models.packed.packed_weight import PackedWeight
from trainer_core.models.packed.tensor_files import INDEX_NAME, read_json

GPTQ_SETTINGS_NAME = "quantize_config.json"
_MAIN = {PackedLayout.GPTQ: "qweight", PackedLayout.COMPRESSED_TENSORS: "weight_packed"}

Tensors = dict[str, torch.Tensor]
LayerWriter = Callable[[PackedWeight], Tensors]


def convert_to_gptq_layout(folder: Path, *, checkpoint_format: str | None = None) -> None:
    """Rewrites a compressed-tensors folder as a GPTQ checkpoint, with quantize_config.json; one that is stays as it is.

    `checkpoint_format` None: `gptq` for symmetric weights, `gptq_v2` for others, since a zero point of 0 less one
    would not fit. The folder changes whole or not at all: the new one is written beside it. Raises ModelLoadError.
    """
    folder = folder.resolve()
    checkpoint = read_packed_checkpoint(folder)
    if checkpoint.layout is PackedLayout.GPTQ:
        return
    kind = checkpoint_format or (FORMAT_WITH_ZERO_LESS_ONE if checkpoint.symmetric else FORMAT_WITH_PLAIN_ZERO)
    orders: set[bool] = set()

    def write_layer(weight: PackedWeight) -> Tensors:
        orders.add(weight.groups_I is not None)
        return write_gptq_layer(weight, checkpoint_format=kind)

    def write_settings(target: Path) -> None:
        settings = build_gptq_settings(checkpoint, checkpoint_format=kind, desc_act=True in orders)
        _write_json(target / GPTQ_SETTINGS_NAME, settings)
        _write_json(target / "config.json", read_json(folder / "config.json") | {"quantization_config": settings})

    _rewrite(folder, checkpoint, write_layer=write_layer, write_settings=write_settings)


def convert_to_compressed_tensors(folder: Path) -> None:
    """Rewrites a GPTQ checkpoint as a compressed-tensors one; one that is stays as it is.

    With act-order the groups lie in `weight_g_idx`, which vLLM reads and compressed-tensors itself no longer does: it
    refuses such a folder. The folder changes whole or not at all. Raises ModelLoadError.
    """
    folder = folder.resolve()
    checkpoint = read_packed_checkpoint(folder)
    if checkpoint.layout is PackedLayout.COMPRESSED_TENSORS:
        return
    orders: set[bool] = set()

    def write_layer(weight: PackedWeight) -> Tensors:
        orders.add(weight.groups_I is not None)
        if checkpoint.symmetric and weight.zeros_GZ is not None:
            message = (
                f"{GPTQ_SETTINGS_NAME} of {folder} says sym, but zero points differ from the middle; set sym to false"
            )
            raise ModelLoadError(message, param="model_name_or_path")
        return write_compressed_layer(weight)

    def write_settings(target: Path) -> None:
        settings = build_compressed_settings(checkpoint, has_groups_by_activation=True in orders)
        _write_json(target / "config.json", read_json(folder / "config.json") | {"quantization_config": settings})

    _rewrite(folder, checkpoint, write_layer=write_layer, write_settings=write_settings)


def _rewrite(
    folder: Path, checkpoint: PackedCheckpoint, *, write_layer: LayerWriter, write_settings: Callable[[Path], None]
) -> None:
    target = folder.with_name(f".{folder.name}.converted")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    try:
        weight_map: dict[str, str] = {}
        num_bytes = 0
        # One file at a time: no more than one is ever in memory.
        for file in checkpoint.files.names:
            tensors = _convert_file(file, checkpoint, write_layer)
            if tensors:
                save_file(tensors, target / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(tensors, file)
            num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if checkpoint.files.is_sharded:
            _write_json(target / INDEX_NAME, {"metadata": {"total_size": num_bytes}, "weight_map": weight_map})
        write_settings(target)
        _bring_other_files(folder, target, checkpoint)
        _swap(folder, target)
    finally:
        shutil.rmtree(target, ignore_errors=True)


def _convert_file(file: str, checkpoint: PackedCheckpoint, write_layer: LayerWriter) -> Tensors:
    """The tensors of the new file: a layer goes where its integers lie, wherever its scales are."""
    tensors: Tensors = {}
    for name in checkpoint.files.iterate_names_in(file):
        module, _, suffix = name.rpartition(".")
        layer = checkpoint.layers.get(module)
        if layer is None or suffix not in layer.headers:
            tensors[name] = checkpoint.files.read(name)
        elif suffix == _MAIN[checkpoint.layout]:
            written = write_layer(checkpoint.read_layer(layer))
            tensors |= {f"{module}.{key}": tensor for key, tensor in written.items()}
    return tensors


def _bring_other_files(folder: Path, target: Path, checkpoint: PackedCheckpoint) -> None:
    """Tokenizer, templates, code: linked where the disk can, for nothing in them changes."""
    written = {*checkpoint.files.names, INDEX_NAME, "config.json", GPTQ_SETTINGS_NAME}
    for path in folder.iterdir():
        if path.is_dir():
            shutil.copytree(path, target / path.name)
        elif path.name not in written:
            try:
                os.link(path.resolve(), target / path.name)
            except OSError:
                shutil.copy2(path, target / path.name)


def _swap(folder: Path, target: Path) -> None:
    """Two renames: a host that dies between them leaves both folders beside the name, whole."""
    before = folder.with_name(f".{folder.name}.before")
    shutil.rmtree(before, ignore_errors=True)
    folder.rename(before)
    try:
        target.rename(folder)
    except OSError:
        before.rename(folder)
        raise
    shutil.rmtree(before)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
