"""Merging a plain LoRA adapter into its base tensor by tensor: the disk's speed, and the memory of one tensor."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from trainer_core.checkpoints import ADAPTER_CONFIG
from trainer_core.config import Config
from trainer_core.hub.sharding import parse_size
from trainer_core.models.adapter_files import WEIGHTS
from trainer_core.models.packed.tensor_files import INDEX_NAME, SINGLE_NAME, TensorFiles
from trainer_core.models.tensor_stream import split_by_bytes, write_tensors

_PREFIX = "base_model.model."
_FIRST, _SECOND = ".lora_A.weight", ".lora_B.weight"
_FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_MUST_BE_UNSET = (
    *("use_dora", "lora_bias", "modules_to_save", "target_parameters", "exclude_modules", "layers_to_transform"),
    *("layer_replication", "trainable_token_indices", "ensure_weight_tying", "alora_invocation_tokens"),
)


class NotByShards(Exception):
    """What stands against this way; the whole model is loaded instead, and finds what is wrong if something is."""


@dataclass(frozen=True, slots=True)
class _Pair:
    """A layer's adapter. Shapes: R rank, I inputs, O outputs."""

    first_RI: torch.Tensor
    second_OR: torch.Tensor
    scaling: float
    is_transposed: bool
    """The base keeps its weight as (I, O)."""

    def add_to(self, weight: torch.Tensor) -> torch.Tensor:
        """The merged weight in fp32, where all of it is computed. Raises NotByShards when it is not finite."""
        first, second = (each.to(weight.device, torch.float32) for each in (self.first_RI, self.second_OR))
        # A copy where the base is in fp32 already: it must not change on the disk that it is mapped from.
        merged = weight.to(torch.float32, copy=True)
        if self.is_transposed:
            merged.addmm_(first.T, second.T, alpha=self.scaling)
        else:
            merged.addmm_(second, first, alpha=self.scaling)
        if not torch.isfinite(merged).all():
            raise NotByShards("a merged weight is not finite")
        return merged


class ShardFuser:
    """One base and one adapter; `write` makes the fused model's files."""

    def __init__(self, config: Config, *, adapter: Path, dtype: torch.dtype | str) -> None:
        """Looks at names, shapes and settings only. `dtype` "auto": the base's own. Raises NotByShards."""
        folder = Path(config.model_name_or_path)
        if not folder.is_dir():
            raise NotByShards("the base is not in a folder")
        if config.trust_remote_code or config.device_map is not None:
            raise NotByShards("the base comes with code of its own, or is to be spread over devices")
        self.model = _build_without_weights(folder)
        self._files = TensorFiles(folder)
        self.dtype = self._choose_dtype(dtype)
        self._pairs = dict(_find_pairs(adapter, model=self.model))
        self._check_names()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def write(self, folder: Path, *, max_shard_size: str) -> None:
        """Writes weights, index, config.json and generation_config.json. Raises OSError, NotByShards."""
        shapes = {name: header.shape for name, header in self._files.headers.items()}
        parts = split_by_bytes(shapes, dtype=self.dtype, max_bytes=parse_size(max_shard_size))
        names = [SINGLE_NAME]
        if len(parts) > 1:
            names = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
            _write_index(folder / INDEX_NAME, parts=parts, names=names, itemsize=self.dtype.itemsize)
        for name, part in zip(names, parts, strict=True):
            write_tensors(folder / name, part, dtype=self.dtype, produce=self._produce)
        self.model.config.dtype = self.dtype
        self.model.config.use_cache = True
        self.model.config.save_pretrained(folder)
        if self.model.generation_config is not None and self.model.can_generate():
            self.model.generation_config.save_pretrained(folder)

    def _produce(self, name: str) -> torch.Tensor:
        weight = self._files.read(name)
        pair = self._pairs.get(name)
        return weight if pair is None else pair.add_to(weight.to(self.device))

    def _choose_dtype(self, wanted: torch.dtype | str) -> torch.dtype:
        kinds = {header.dtype for header in self._files.headers.values()}
        if unknown := kinds - set(_FORMATS):
            raise NotByShards(f"the base holds numbers of the kind {', '.join(sorted(unknown))}")
        if isinstance(wanted, torch.dtype):
            return wanted
        if len(kinds) > 1:
            raise NotByShards("the base holds numbers of several kinds")
        return _FORMATS[kinds.pop()]

    def _check_names(self) -> None:
        """What is in the files must be the model's own weights, each by its name, and all of them."""
        weights = self.model.state_dict()
        tied: Any = self.model.all_tied_weights_keys
        found = self._files.headers
        missing = set(weights) - set(found) - set(tied)
        if missing or set(found) - set(weights):
            raise NotByShards("the base's files name its weights otherwise than the model does")
        shared = {name for pair in tied.items() for name in pair}
        for name, pair in self._pairs.items():
            if name not in found or name in shared:
                raise NotByShards(f"{name} is not a weight of one layer alone")
            expected = (pair.second_OR.shape[0], pair.first_RI.shape[1])
            if found[name].shape != (expected[::-1] if pair.is_transposed else expected):
                raise NotByShards(f"the adapter does not fit {name}")


def _build_without_weights(folder: Path) -> PreTrainedModel:
    settings = AutoConfig.from_pretrained(folder)
    if getattr(settings, "quantization_config", None) is not None:
        raise NotByShards("the base is quantized")
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(settings)  # type: ignore[no-untyped-call]
    if list(settings.architectures or ()) != [type(model).__name__]:
        raise NotByShards("the base was saved as another kind of model")
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _find_pairs(adapter: Path, *, model: PreTrainedModel) -> Iterator[tuple[str, _Pair]]:
    """The adapter's layers by the name of the weight that each changes."""
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    set_otherwise = [name for name in _MUST_BE_UNSET if settings.get(name)]
    if set_otherwise or settings.get("bias", "none") != "none":
        raise NotByShards(f"the adapter has {', '.join(set_otherwise or ['a bias'])}")
    tensors = load_file(adapter / WEIGHTS)
    layers = {name.removesuffix(_FIRST) for name in tensors if name.endswith(_FIRST)}
    if set(tensors) != {layer + part for layer in layers for part in (_FIRST, _SECOND)}:
        raise NotByShards("the adapter holds more than two matrices a layer")
    modules = dict(model.named_modules())
    expected = _list_targets(settings, modules)
    if {layer.removeprefix(_PREFIX) for layer in layers} != expected:
        raise NotByShards("the adapter's layers are not those that its settings name")
    for layer in layers:
        name = layer.removeprefix(_PREFIX)
        yield (
            f"{name}.weight",
            _Pair(
                tensors[layer + _FIRST],
                tensors[layer + _SECOND],
                scaling=_find_scaling(settings, rank=tensors[layer + _FIRST].shape[0]),
                is_transposed=isinstance(modules[name], Conv1D),
            ),
        )


def _list_targets(settings: dict[str, Any], modules: dict[str, Any]) -> set[str]:
    targets = settings.get("target_modules")
    if not isinstance(targets, list):
        raise NotByShards("the adapter names its layers by a pattern")
    return {name for name in modules if any(name == each or name.endswith(f".{each}") for each in targets)}


def _find_scaling(settings: dict[str, Any], *, rank: int) -> float:
    if settings.get("rank_pattern") or settings.get("alpha_pattern"):
        raise NotByShards("the adapter has ranks or scales by pattern")
    divisor = rank**0.5 if settings.get("use_rslora") else rank
    return float(settings.get("lora_alpha", 8)) / divisor


def _write_index(path: Path, *, parts: list[Any], names: list[str], itemsize: int) -> None:
    weight_map = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    num_values = sum(int(torch.Size(shape).numel()) for part in parts for shape in part.values())
    content = {"metadata": {"total_size": num_values * itemsize}, "weight_map": weight_map}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
