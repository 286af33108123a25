"""Splitting of safetensors files into smaller ones, as bytes: no tensor library, one chunk in memory at a time."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COPY_BYTES = 1 << 24
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY_UNITS = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_LENGTH_BYTES = 8
_FULL_NAME = re.compile(r"(?P<stem>.+?)(-\d{5}-of-\d{5})?\.safetensors")


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    description: Mapping[str, Any]
    """`dtype` and `shape`."""
    file: Path
    start: int
    """Where its bytes begin in the file."""
    num_bytes: int


def parse_size(text: str) -> int:
    """Bytes of a size such as `500MB`, `10 GB` or `2GiB`."""
    number, unit = re.fullmatch(r"([\d.]+) ?(\w+)", text).groups()  # type: ignore[union-attr]
    return int(float(number) * (_UNITS | _BINARY_UNITS)[unit.upper()])


def reshard(files: Sequence[Path], *, into: Path, max_bytes: int) -> list[Path]:
    """Writes all tensors of these files anew, in files of at most `max_bytes`, with their index; returns the paths.

    A tensor that is larger has a file of its own. Names follow the Hub's custom: `model-00001-of-00003.safetensors`.
    The order is the files' own. Raises OSError, ValueError for a file that is no safetensors.
    """
    match = _FULL_NAME.fullmatch(files[0].name)
    stem = match["stem"] if match else "model"
    groups = _group([tensor for path in files for tensor in _list_tensors(path)], max_bytes=max_bytes)
    if len(groups) == 1:
        names = [f"{stem}.safetensors"]
    else:
        names = [f"{stem}-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    written = []
    for name, group in zip(names, groups, strict=True):
        _write_file(into / name, group)
        written.append(into / name)
    if len(groups) > 1:
        written.append(_write_index(into / f"{stem}.safetensors.index.json", dict(zip(names, groups, strict=True))))
    return written


def _list_tensors(path: Path) -> Iterator[_Tensor]:
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        if header_bytes > path.stat().st_size:
            raise ValueError(f"{path.name} is no whole safetensors file")
        header = json.loads(file.read(header_bytes))
    offset = _LENGTH_BYTES + header_bytes
    entries = ((name, entry) for name, entry in header.items() if name != "__metadata__")
    for name, entry in sorted(entries, key=lambda item: item[1]["data_offsets"][0]):
        start, end = entry["data_offsets"]
        description = {"dtype": entry["dtype"], "shape": entry["shape"]}
        yield _Tensor(name, description, path, offset + start, end - start)


def _group(tensors: Sequence[_Tensor], *, max_bytes: int) -> list[list[_Tensor]]:
    groups: list[list[_Tensor]] = []
    room = 0
    for tensor in tensors:
        if not groups or tensor.num_bytes > room:
            groups.append([])
            room = max_bytes
        groups[-1].append(tensor)
        room -= tensor.num_bytes
    return groups


def _write_file(path: Path, tensors: Sequence[_Tensor]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + tensor.num_bytes
        header[tensor.name] = {**tensor.description, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)
    with path.open("wb") as target:
        target.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for tensor in tensors:
            with tensor.file.open("rb") as source:
                source.seek(tensor.start)
                _copy(source, target, num_bytes=tensor.num_bytes)


def _copy(source: Any, target: Any, *, num_bytes: int) -> None:
    while num_bytes:
        chunk = source.read(min(_COPY_BYTES, num_bytes))
        if not chunk:
            raise ValueError(f"{source.name} is no whole safetensors file")
        target.write(chunk)
        num_bytes -= len(chunk)


def _write_index(path: Path, groups: Mapping[str, Sequence[_Tensor]]) -> Path:
    total_bytes = sum(tensor.num_bytes for group in groups.values() for tensor in group)
    weight_map = {tensor.name: name for name, group in groups.items() for tensor in group}
    index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
    path.write_text(json.dumps(index, indent=2) + "\n")
    return path
