"""Whether a saved checkpoint holds every planned layer quantized, read from its files' headers alone."""

import json
import struct
from collections.abc import Collection, Mapping
from pathlib import Path

from trainer_core.errors import QuantizationError

PACKED_WEIGHTS = (".weight_packed", ".qweight")
"""Ends of the names of weights whose integers are packed: compressed-tensors', GPTQ's."""
NARROW_DTYPES = frozenset({"F8_E4M3", "I8", "U8"})
"""Types of weights that keep their plain name: FP8, 8-bit integers, bitsandbytes' bytes."""
SCALES = (".weight_scale", ".scales", ".weight.absmax", ".SCB")


def check_saved_layers(folder: Path, planned: Collection[str]) -> int:
    """The number of quantized layers in `folder`. Raises QuantizationError when planned ones are not among them.

    Names may differ between a model and its checkpoint: where none matches by name, their number decides.
    """
    found = find_quantized_layers(folder)
    missing = sorted(set(planned) - found)
    if missing and len(found) < len(planned):
        raise QuantizationError(
            f"the saved checkpoint holds {len(found)} quantized layers of the {len(planned)} planned; "
            f"{missing[0]} is not among them"
        )
    return len(found)


def find_quantized_layers(folder: Path) -> frozenset[str]:
    """Names of the layers in the folder's safetensors files whose weights are quantized and have their scales."""
    dtypes: dict[str, str] = {}
    for path in folder.glob("*.safetensors"):
        dtypes |= _read_dtypes(path)
    layers = {_name_layer(name, dtype) for name, dtype in dtypes.items()} - {None}
    return frozenset(
        name for name in layers if name is not None and any(f"{name}{scale}" in dtypes for scale in SCALES)
    )


def _name_layer(tensor: str, dtype: str) -> str | None:
    for end in PACKED_WEIGHTS:
        if tensor.endswith(end):
            return tensor.removesuffix(end)
    if tensor.endswith(".weight") and dtype in NARROW_DTYPES:
        return tensor.removesuffix(".weight")
    return None


def _read_dtypes(path: Path) -> Mapping[str, str]:
    """A safetensors file starts with the length of its header, then the header as JSON."""
    with path.open("rb") as file:
        (num_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(num_bytes))
    return {name: str(entry["dtype"]) for name, entry in header.items() if name != "__metadata__"}
