"""Which layers of a checkpoint are quantized, in which layout, bits and groups."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from trainer_core.errors import ModelLoadError
from trainer_core.models.packed import compressed_layout, gptq_layout
from trainer_core.models.packed.bit_packing import PACKABLE_BITS, count_words
from trainer_core.models.packed.packed_weight import PackedWeight
from trainer_core.models.packed.tensor_files import TensorFiles, TensorHeader, read_json

PARAM = "model_name_or_path"
PACK_QUANTIZED = "pack-quantized"
PER_CHANNEL = -1


class PackedLayout(StrEnum):
    """How quantized layers lie in a checkpoint; the values are transformers' `quant_method`."""

    GPTQ = "gptq"
    COMPRESSED_TENSORS = "compressed-tensors"


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """One quantized layer, as the files' headers tell."""

    name: str
    """The module's path."""
    headers: Mapping[str, TensorHeader]
    """By the tensor's last name, such as `qweight`."""
    has_bias: bool
    num_outputs: int
    num_inputs: int
    num_groups: int
    num_bits: int
    group_size: int
    """Columns that share a scale; -1: all columns of a row. Act-order deals these columns out over the row."""


@dataclass(frozen=True)
class PackedCheckpoint:
    """A folder with quantized layers."""

    files: TensorFiles
    settings: dict[str, Any]
    """config.json's `quantization_config`, else quantize_config.json."""
    layout: PackedLayout
    layers: dict[str, PackedLayer]
    """By module path, in the files' order."""

    @property
    def checkpoint_format(self) -> str:
        """Of a GPTQ checkpoint: `gptq`, or `gptq_v2` where zero points are stored as they are."""
        return str(self.settings.get("checkpoint_format") or self.settings.get("format") or gptq_layout.FORMATS[0])

    @cached_property
    def symmetric(self) -> bool:
        """Whether the checkpoint says that all zero points are in the middle."""
        if self.layout is PackedLayout.GPTQ:
            return bool(self.settings.get("sym", True))
        return not any("weight_zero_point" in layer.headers for layer in self.layers.values())

    def read_layer(self, layer: PackedLayer, tensors: Mapping[str, torch.Tensor] | None = None) -> PackedWeight:
        """The layer's weight; `tensors` None: from the files."""
        if tensors is None:
            tensors = {suffix: self.files.read(f"{layer.name}.{suffix}") for suffix in layer.headers}
        if self.layout is PackedLayout.COMPRESSED_TENSORS:
            weight = compressed_layout.read_compressed_layer(tensors, num_bits=layer.num_bits)
        else:
            weight = gptq_layout.read_gptq_layer(
                tensors,
                num_bits=layer.num_bits,
                checkpoint_format=self.checkpoint_format,
                group_size=layer.group_size,
                symmetric=self.symmetric,
            )
        _check_values(weight, name=layer.name)
        return weight


def find_quantization_settings(folder: Path) -> dict[str, Any] | None:
    """What a model's files say about its quantization; None: nothing. Old GPTQ tools wrote a file of its own."""
    config = folder / "config.json"
    settings = read_json(config).get("quantization_config") if config.is_file() else None
    if isinstance(settings, dict):
        return settings
    own = folder / "quantize_config.json"
    return {"quant_method": "gptq"} | read_json(own) if own.is_file() else None


def read_packed_checkpoint(folder: Path) -> PackedCheckpoint:
    """What the folder holds; no weight is loaded.

    Raises ModelLoadError for a model that is not quantized, or in a way that is not integers in one of the two layouts.
    """
    settings = find_quantization_settings(folder)
    if settings is None:
        raise ModelLoadError(f"the model in {folder} is not quantized", param=PARAM)
    layout = _find_layout(settings, folder=folder)
    files = TensorFiles(folder)
    is_gptq = layout is PackedLayout.GPTQ
    describe = _describe_gptq_layer if is_gptq else _describe_compressed_layer
    names = _find_layers(files, main="qweight" if is_gptq else "weight_packed")
    suffixes = gptq_layout.SUFFIXES if is_gptq else compressed_layout.SUFFIXES
    layers = {
        name: describe(name, _headers_of(files, name, suffixes), files=files, settings=settings) for name in names
    }
    if not layers:
        raise ModelLoadError(f"the model in {folder} says that it is quantized, but has no such layer", param=PARAM)
    return PackedCheckpoint(files, settings, layout, layers)


def _find_layout(settings: dict[str, Any], *, folder: Path) -> PackedLayout:
    method = settings.get("quant_method")
    if method == PackedLayout.GPTQ:
        kind = settings.get("checkpoint_format") or settings.get("format") or gptq_layout.FORMATS[0]
        if kind in gptq_layout.FORMATS and settings.get("pack_dtype") in (None, "int32", "torch.int32"):
            return PackedLayout.GPTQ
        method = f"gptq as {kind!r}"
    elif method == PackedLayout.COMPRESSED_TENSORS:
        groups = settings.get("config_groups") or {}
        formats = {group.get("format") or settings.get("format") for group in groups.values()}
        if formats == {PACK_QUANTIZED} and not _has_more_than_weights(settings):
            return PackedLayout.COMPRESSED_TENSORS
        method = f"compressed-tensors as {', '.join(map(str, sorted(formats, key=str))) or 'nothing'}"
    message = (
        f"the model in {folder} is quantized by {method}; read are GPTQ checkpoints (gptq, gptq_v2) and "
        "compressed-tensors of the format pack-quantized with unquantized activations"
    )
    raise ModelLoadError(message, param=PARAM)


def _has_more_than_weights(settings: dict[str, Any]) -> bool:
    groups = settings["config_groups"].values()
    return bool(settings.get("transform_config")) or any(group.get("input_activations") for group in groups)


def _find_layers(files: TensorFiles, *, main: str) -> Iterator[str]:
    return (name.removesuffix(f".{main}") for name in files.headers if name.endswith(f".{main}"))


def _headers_of(files: TensorFiles, name: str, suffixes: tuple[str, ...]) -> dict[str, TensorHeader]:
    found = {suffix: files.headers.get(f"{name}.{suffix}") for suffix in suffixes}
    headers = {suffix: header for suffix, header in found.items() if header is not None}
    if lacking := [suffix for suffix in suffixes[:3] if suffix not in headers]:
        raise ModelLoadError(f"the quantized layer {name} lacks {', '.join(lacking)}", param=PARAM)
    return headers


def _describe_gptq_layer(
    name: str, headers: dict[str, TensorHeader], *, files: TensorFiles, settings: dict[str, Any]
) -> PackedLayer:
    num_words, num_outputs = _matrix(headers["qweight"], name)
    num_groups, num_scales = _matrix(headers["scales"], name)
    bits = settings.get("bits")
    if bits not in PACKABLE_BITS:
        raise ModelLoadError(f"bits={bits!r} of a GPTQ checkpoint; read are 2, 3, 4 and 8", param=PARAM)
    g_idx = headers.get("g_idx")
    num_inputs = g_idx.shape[0] if g_idx is not None else num_words * 32 // bits
    num_bits = _fit_bits(num_words, num_inputs=num_inputs, candidates=(bits, *PACKABLE_BITS), name=name)
    zeros = _matrix(headers["qzeros"], name)
    if num_scales != num_outputs or zeros != (num_groups, count_words(num_outputs, num_bits=num_bits)):
        raise ModelLoadError(f"the tensors of the quantized layer {name} do not fit each other", param=PARAM)
    group_size = _group_size(num_inputs, num_groups, declared=settings.get("group_size"))
    bias = f"{name}.bias" in files.headers
    return PackedLayer(name, headers, bias, num_outputs, num_inputs, num_groups, num_bits, group_size)


def _describe_compressed_layer(
    name: str, headers: dict[str, TensorHeader], *, files: TensorFiles, settings: dict[str, Any]
) -> PackedLayer:
    num_outputs, num_words = _matrix(headers["weight_packed"], name)
    num_scales, num_groups = _matrix(headers["weight_scale"], name)
    if num_scales != num_outputs:
        raise ModelLoadError(f"the tensors of the quantized layer {name} do not fit each other", param=PARAM)
    num_inputs = int(files.read(f"{name}.weight_shape")[1])
    schemes = [group["weights"] for group in settings["config_groups"].values() if group.get("weights")]
    candidates = tuple(scheme["num_bits"] for scheme in schemes if scheme.get("num_bits") in PACKABLE_BITS)
    num_bits = _fit_bits(num_words, num_inputs=num_inputs, candidates=candidates, name=name)
    declared = next((scheme.get("group_size") for scheme in schemes if scheme.get("group_size")), None)
    group_size = _group_size(num_inputs, num_groups, declared=declared)
    bias = f"{name}.bias" in files.headers
    return PackedLayer(name, headers, bias, num_outputs, num_inputs, num_groups, num_bits, group_size)


def _matrix(header: TensorHeader, name: str) -> tuple[int, int]:
    if len(header.shape) != 2 or 0 in header.shape:
        message = f"the quantized layer {name} has a tensor of shape {header.shape}; only matrices are read"
        raise ModelLoadError(message, param=PARAM)
    return header.shape[0], header.shape[1]


def _fit_bits(num_words: int, *, num_inputs: int, candidates: tuple[int, ...], name: str) -> int:
    """The width that the shape shows: single layers may have more or fewer bits than the whole."""
    for bits in candidates:
        if count_words(num_inputs, num_bits=bits) == num_words:
            return bits
    raise ModelLoadError(f"no width of 2, 3, 4 or 8 bits fits the quantized layer {name}", param=PARAM)


def _group_size(num_inputs: int, num_groups: int, *, declared: int | None) -> int:
    """The declared size where it gives this number of groups; a layer of its own kind shows by its scales."""
    if declared and declared > 0 and -(-num_inputs // declared) == num_groups:
        return declared
    return PER_CHANNEL if num_groups == 1 else -(-num_inputs // num_groups)


def _check_values(weight: PackedWeight, *, name: str) -> None:
    if not bool(torch.isfinite(weight.scales_OG).all()):
        raise ModelLoadError(f"the scales of the quantized layer {name} are not finite", param=PARAM)
    num_groups, groups_I = weight.scales_OG.shape[1], weight.groups_I
    if groups_I is not None and (int(groups_I.min()) < 0 or int(groups_I.max()) >= num_groups):
        raise ModelLoadError(f"the quantized layer {name} names groups beyond its {num_groups}", param=PARAM)
    if groups_I is None and weight.num_columns % num_groups:
        raise ModelLoadError(f"{num_groups} groups do not divide the columns of the layer {name}", param=PARAM)


def matches_name(pattern: str, name: str) -> bool:
    """compressed-tensors' way to name modules: exactly, or by `re:` and a regular expression."""
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), name) is not None
    return pattern == name
