"""Where tensors lie in safetensors files, and moving their bytes without mapping the files into memory.

Pages of a mapped file count as a process's memory, so that reading a whole model through safetensors' own reader looks
like holding it. The format: 8 bytes with the header's length, the header as JSON, the tensors' bytes end to end.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from trainer_core.models.packed.tensor_files import TensorFiles

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""Number formats of weights that adapters are merged into, by safetensors' names."""
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH_BYTES = 8
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor in a file."""

    path: Path
    offset: int
    """Of the tensor's first byte from the file's start."""
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """In the file."""
        return prod(self.shape) * self.dtype.itemsize


def find_tensors(files: TensorFiles) -> dict[str, TensorPlace]:
    """Every tensor of a model's folder. Raises ModelLoadError for files that are missing or cut off, KeyError for a
    number format that is none of `DTYPES`."""
    dtypes = {name: DTYPES[header.dtype] for name, header in files.headers.items()}
    places: dict[str, TensorPlace] = {}
    for path in (files.folder / name for name in files.names):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
            header = json.loads(file.read(length))
        header.pop(_METADATA, None)
        for name, entry in header.items():
            offset = _LENGTH_BYTES + length + entry["data_offsets"][0]
            places[name] = TensorPlace(path, offset, tuple(entry["shape"]), dtypes[name])
    return places


def create_file(path: Path, *, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> dict[str, TensorPlace]:
    """Writes the header of a file for these tensors, as safetensors lays them out, and gives it its final size."""
    header: dict[str, object] = {_METADATA: {"format": "pt"}}
    start = 0
    starts: dict[str, int] = {}
    for name in sorted(shapes):
        end = start + prod(shapes[name]) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shapes[name]), "data_offsets": [start, end]}
        starts[name], start = start, end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        file.truncate(file.tell() + start)
        begin = file.tell()
    return {name: TensorPlace(path, begin + starts[name], tuple(shapes[name]), dtype) for name in shapes}


def read_tensor(tensor: torch.Tensor, place: TensorPlace, *, first_element: int = 0) -> None:
    """Fills a contiguous CPU tensor of the place's number format with what lies there, from an element on.

    Raises EOFError for a file that became shorter.
    """
    rest = _get_bytes(tensor)
    with place.path.open("rb", buffering=0) as file:
        file.seek(place.offset + first_element * place.dtype.itemsize)
        while rest:
            num_read = file.readinto(rest)
            if not num_read:
                raise EOFError(f"{place.path} ended amid a tensor")
            rest = rest[num_read:]


def write_tensor(tensor: torch.Tensor, place: TensorPlace, *, first_element: int = 0) -> None:
    """Writes a contiguous CPU tensor of the place's number format there, from an element on."""
    rest = _get_bytes(tensor)
    handle = os.open(place.path, os.O_WRONLY)
    offset = place.offset + first_element * place.dtype.itemsize
    try:
        while rest:
            num_written = os.pwrite(handle, rest, offset)
            rest, offset = rest[num_written:], offset + num_written
    finally:
        os.close(handle)


def count_largest_file(places: Sequence[TensorPlace]) -> int:
    """Bytes of tensors in the file that holds most."""
    sizes: dict[Path, int] = {}
    for place in places:
        sizes[place.path] = sizes.get(place.path, 0) + place.num_bytes
    return max(sizes.values(), default=0)


def _get_bytes(tensor: torch.Tensor) -> memoryview:
    as_bytes: Any = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return memoryview(as_bytes)
