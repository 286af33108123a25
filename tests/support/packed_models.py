"""Tiny models with packed layers, rounded to nearest by plain arithmetic: no quantization library is needed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.support.tiny_models import build_tiny_llama
from trainer_core.models.packed.bit_packing import pack_rows
from trainer_core.models.packed.compressed_layout import write_compressed_layer
from trainer_core.models.packed.gptq_layout import write_gptq_layer
from trainer_core.models.packed.packed_weight import PackedWeight


@dataclass(frozen=True, slots=True)
class Rounding:
    """How weights are rounded."""

    num_bits: int = 4
    group_size: int = 32
    """-1: one scale a row."""
    symmetric: bool = True
    by_activation: bool = False
    """Deal the columns out to the groups in a shuffled order, as act-order does."""


def round_weight(weight: torch.Tensor, rounding: Rounding, *, seed: int = 0) -> PackedWeight:
    """The weight rounded to nearest by groups; a width that the group size does not divide gets one scale a row."""
    num_columns = weight.shape[1]
    fits = rounding.group_size > 0 and num_columns % rounding.group_size == 0
    num_groups = num_columns // rounding.group_size if fits else 1
    order = torch.arange(num_columns)
    if rounding.by_activation:
        order = torch.randperm(num_columns, generator=torch.Generator().manual_seed(seed))
    groups = torch.empty(num_columns, dtype=torch.int32)
    groups[order] = (torch.arange(num_columns) // (num_columns // num_groups)).int()
    in_groups = weight[:, order].float().reshape(weight.shape[0], num_groups, -1)
    middle, largest = 2 ** (rounding.num_bits - 1), 2**rounding.num_bits - 1
    if rounding.symmetric:
        scales = in_groups.abs().amax(-1) / max(middle - 1, 1)
        zeros = torch.full_like(scales, middle)
    else:
        low, high = in_groups.amin(-1).clamp(max=0), in_groups.amax(-1).clamp(min=0)
        scales = (high - low) / largest
        zeros = (-low / scales).round().clamp(0, largest)
    scales = scales.to(weight.dtype)
    codes = in_groups.div(scales.float().unsqueeze(-1)).round().add(zeros.unsqueeze(-1)).clamp(0, largest)
    in_order = torch.empty(weight.shape, dtype=torch.uint8)
    in_order[:, order] = codes.reshape(weight.shape).to(torch.uint8)
    return PackedWeight(
        codes_OW=pack_rows(in_order, num_bits=rounding.num_bits),
        scales_OG=scales,
        zeros_GZ=None if rounding.symmetric else pack_rows(zeros.t().to(torch.uint8), num_bits=rounding.num_bits),
        groups_I=groups if rounding.by_activation else None,
        num_bits=rounding.num_bits,
        num_columns=num_columns,
    )


def build_packed_llama(
    folder: Path,
    *,
    layout: str,
    rounding: Rounding | None = None,
    dtype: torch.dtype = torch.float32,
    num_shards: int = 1,
    **overrides: object,
) -> Path:
    """A tiny Llama whose projections are quantized, in the layout `gptq`, `gptq_v2` or `compressed-tensors`.

    `num_shards` deals the tensors out one by one, so that a layer's tensors lie in different files. `overrides` are
    LlamaConfig fields.
    """
    rounding = rounding or Rounding()
    build_tiny_llama(folder, **overrides)  # type: ignore[arg-type]
    tensors: dict[str, torch.Tensor] = {}
    per_channel: list[str] = []
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = tensor.to(dtype)
            continue
        module = name.removesuffix(".weight")
        weight = round_weight(tensor.to(dtype), rounding, seed=len(tensors))
        if rounding.group_size > 0 and weight.scales_OG.shape[1] == 1 and weight.num_columns != rounding.group_size:
            per_channel.append(module)
        written = (
            write_compressed_layer(weight)
            if layout == "compressed-tensors"
            else write_gptq_layer(weight, checkpoint_format=layout)
        )
        tensors |= {f"{module}.{suffix}": value for suffix, value in written.items()}
    _save(folder, tensors, num_shards=num_shards)
    is_compressed = layout == "compressed-tensors"
    settings = _compressed_settings(rounding, per_channel) if is_compressed else _gptq_settings(rounding, layout)
    set_quantization_settings(folder, settings, dtype=str(dtype).removeprefix("torch."))
    return folder


def set_quantization_settings(folder: Path, settings: Mapping[str, Any] | None, **fields: object) -> None:
    """Rewrites config.json's `quantization_config`; None: without one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    config.pop("quantization_config", None)
    path.write_text(json.dumps(config | ({"quantization_config": settings} if settings is not None else {})))


def _save(folder: Path, tensors: dict[str, torch.Tensor], *, num_shards: int) -> None:
    (folder / "model.safetensors").unlink()
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = [f"model-{index + 1:05}-of-{num_shards:05}.safetensors" for index in range(num_shards)]
    weight_map = {name: names[index % num_shards] for index, name in enumerate(tensors)}
    for file in names:
        chosen = {name: tensors[name] for name, place in weight_map.items() if place == file}
        save_file(chosen, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _gptq_settings(rounding: Rounding, layout: str) -> dict[str, Any]:
    return {
        "quant_method": "gptq",
        "checkpoint_format": layout,
        "bits": rounding.num_bits,
        "group_size": rounding.group_size,
        "sym": rounding.symmetric,
        "desc_act": rounding.by_activation,
    }


def _compressed_settings(rounding: Rounding, per_channel: list[str]) -> dict[str, Any]:
    kinds = [(["Linear"], rounding.group_size), *([(per_channel, -1)] if per_channel else [])]
    groups = {
        f"group_{index}": {
            "targets": targets,
            "weights": {
                "num_bits": rounding.num_bits,
                "type": "int",
                "symmetric": rounding.symmetric,
                "strategy": "group" if size > 0 else "channel",
                "group_size": size if size > 0 else None,
            },
        }
        for index, (targets, size) in enumerate(kinds)
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ["lm_head"],
    }
