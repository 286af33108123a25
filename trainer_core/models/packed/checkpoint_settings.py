"""What a converted checkpoint says about itself, in the words that its readers know."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from trainer_core.models.packed.checkpoint import (
    PACK_QUANTIZED,
    PER_CHANNEL,
    PackedCheckpoint,
    PackedLayer,
    PackedLayout,
    matches_name,
)

HEAD = "lm_head"


def build_gptq_settings(checkpoint: PackedCheckpoint, *, checkpoint_format: str, desc_act: bool) -> dict[str, Any]:
    """quantize_config.json and config.json's `quantization_config` of a GPTQ checkpoint.

    Layers of another width than most, and linear layers left whole, stand in `dynamic`, by which gptqmodel and vLLM
    name exceptions.
    """
    num_bits, group_size = _most_common(checkpoint.layers.values())
    settings: dict[str, Any] = {
        "quant_method": PackedLayout.GPTQ.value,
        "checkpoint_format": checkpoint_format,
        "bits": num_bits,
        "group_size": group_size,
        "desc_act": desc_act,
        "sym": checkpoint.symmetric,
        "lm_head": HEAD in checkpoint.layers,
        "pack_dtype": "int32",
        "true_sequential": True,
        "meta": {"quantizer": ["finesmith"]},
    }
    dynamic: dict[str, Any] = {f"-:{_exactly(name)}": {} for name in _find_ignored(checkpoint) if name != HEAD}
    for layer in checkpoint.layers.values():
        if not _is_of(layer, num_bits=num_bits, group_size=group_size):
            dynamic[f"+:{_exactly(layer.name)}"] = {"bits": layer.num_bits, "group_size": layer.group_size}
    return settings | ({"dynamic": dynamic} if dynamic else {})


def build_compressed_settings(checkpoint: PackedCheckpoint, *, has_groups_by_activation: bool) -> dict[str, Any]:
    """config.json's `quantization_config` of a compressed-tensors checkpoint."""
    common = _most_common(checkpoint.layers.values())
    exceptions: dict[tuple[int, int], list[str]] = {}
    for layer in checkpoint.layers.values():
        if not _is_of(layer, num_bits=common[0], group_size=common[1]):
            exceptions.setdefault((layer.num_bits, layer.group_size), []).append(layer.name)
    targets: list[tuple[tuple[int, int], list[str]]] = [(common, ["Linear"]), *exceptions.items()]
    actorder = "group" if has_groups_by_activation else None
    groups = {
        f"group_{index}": {
            "targets": names,
            "weights": _weights_scheme(*kind, symmetric=checkpoint.symmetric, actorder=actorder),
            "input_activations": None,
            "output_activations": None,
            "format": PACK_QUANTIZED,
        }
        for index, (kind, names) in enumerate(targets)
    }
    return {
        "quant_method": PackedLayout.COMPRESSED_TENSORS.value,
        "format": PACK_QUANTIZED,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": _find_whole_matrices(checkpoint),
        "kv_cache_scheme": None,
    }


def _weights_scheme(num_bits: int, group_size: int, *, symmetric: bool, actorder: str | None) -> dict[str, Any]:
    is_per_channel = group_size == PER_CHANNEL
    return {
        "num_bits": num_bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if is_per_channel else "group",
        "group_size": None if is_per_channel else group_size,
        "actorder": actorder,
        "dynamic": False,
    }


def _most_common(layers: Iterable[PackedLayer]) -> tuple[int, int]:
    """Bits and group size of most layers."""
    return Counter((layer.num_bits, layer.group_size) for layer in layers).most_common(1)[0][0]


def _is_of(layer: PackedLayer, *, num_bits: int, group_size: int) -> bool:
    return layer.num_bits == num_bits and layer.group_size == group_size


def _find_ignored(checkpoint: PackedCheckpoint) -> list[str]:
    """Linear layers that were left whole on purpose."""
    patterns = checkpoint.settings.get("ignore") or []
    whole = _find_whole_matrices(checkpoint)
    return [name for name in whole if any(matches_name(pattern, name) for pattern in patterns)]


def _find_whole_matrices(checkpoint: PackedCheckpoint) -> list[str]:
    """Modules whose weight is an unquantized matrix, and the head, which has none in the files when it is tied."""
    headers = checkpoint.files.headers.items()
    found = [name.removesuffix(".weight") for name, header in headers if _is_matrix(name, header.shape)]
    return sorted({*found, *([] if HEAD in checkpoint.layers else [HEAD])})


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(".weight") and len(shape) == 2


def _exactly(name: str) -> str:
    return f"^{re.escape(name)}$"
