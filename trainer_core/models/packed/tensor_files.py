"""The safetensors files of a model folder: what lies where, without loading it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from trainer_core.errors import ModelLoadError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """What a file says about one tensor."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    """safetensors' name, such as `F16`."""


@dataclass(frozen=True)
class TensorFiles:
    """All weights of one folder, in one file or in several with an index."""

    folder: Path

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The files, in order. Raises ModelLoadError when there is none, or one is missing."""
        index = self.folder / INDEX_NAME
        if index.is_file():
            weight_map = read_json(index).get("weight_map")
            names = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
        else:
            names = [SINGLE_NAME]
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing or not names:
            message = (
                f"{self.folder} lacks the weights {', '.join(missing) or INDEX_NAME}; they are read as safetensors"
            )
            raise ModelLoadError(message, param="model_name_or_path")
        return tuple(names)

    @property
    def is_sharded(self) -> bool:
        """Whether an index says which file holds which tensor."""
        return (self.folder / INDEX_NAME).is_file()

    @cached_property
    def headers(self) -> dict[str, TensorHeader]:
        """Every tensor's place, shape and number format, by its name."""
        headers: dict[str, TensorHeader] = {}
        for file in self.names:
            with _opened(self.folder / file) as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    part = opened.get_slice(name)
                    headers[name] = TensorHeader(file, tuple(part.get_shape()), part.get_dtype())
        return headers

    def iterate_names_in(self, file: str) -> Iterator[str]:
        """The names of one file's tensors."""
        return (name for name, header in self.headers.items() if header.file == file)

    def read(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU. Raises ModelLoadError."""
        with _opened(self.folder / self.headers[name].file) as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
            return tensor


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelLoadError naming the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}", param="model_name_or_path") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} holds no JSON object", param="model_name_or_path")
    return content


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}", param="model_name_or_path") from error
