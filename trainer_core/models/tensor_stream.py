"""safetensors files written one tensor at a time, so that a host's memory holds one tensor and not a file."""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

Shapes = Mapping[str, Sequence[int]]
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8


def write_tensors(path: Path, shapes: Shapes, *, dtype: torch.dtype, produce: Callable[[str], torch.Tensor]) -> None:
    """Writes the named tensors in this format; `produce` is asked for one after the other. Raises OSError."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        end = start + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in shapes:
            values = produce(name).to("cpu", dtype).contiguous()
            file.write(values.view(-1).view(torch.uint8).numpy().data)


def split_by_bytes(shapes: Shapes, *, dtype: torch.dtype, max_bytes: int) -> list[dict[str, Sequence[int]]]:
    """Files of at most `max_bytes` of values each, in order; a larger tensor has one of its own."""
    files: list[dict[str, Sequence[int]]] = []
    room = 0
    for name, shape in shapes.items():
        num_bytes = math.prod(shape) * dtype.itemsize
        if not files or num_bytes > room:
            files.append({})
            room = max_bytes
        files[-1][name] = shape
        room -= num_bytes
    return files
