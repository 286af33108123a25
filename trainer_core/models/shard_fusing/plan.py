"""Whether a base and an adapter can be fused tensor by tensor, found out on a model without weights."""

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from peft import LoraConfig
from peft.tuners.lora import Embedding, Linear, LoraLayer
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion
from transformers.modeling_utils import remove_tied_weights_from_state_dict

from trainer_core.config import Config
from trainer_core.errors import ModelLoadError
from trainer_core.models.adapter_files import PARAM, WEIGHTS, AdapterFacts
from trainer_core.models.adapter_fit import attach_adapter, check_adapter_fits
from trainer_core.models.device_map import check_device_map
from trainer_core.models.failures import load_errors
from trainer_core.models.library_habits import spare_deepspeed_import
from trainer_core.models.loading import repair_generation_config
from trainer_core.models.packed.checkpoint import find_quantization_settings
from trainer_core.models.packed.tensor_files import TensorFiles
from trainer_core.models.shard_fusing.tensor_places import TensorPlace, find_tensors

PREFIX = "base_model.model."
"""What names in adapter files have before the base's."""
_FILES = ["config.json", "generation_config.json", "model.safetensors", "model-*.safetensors", "*.index.json"]
_PLAIN_INITS = (True, False, None, "gaussian")
"""Ways to begin an adapter that leave the base as it is; others take the adapter out of the base's weights."""
_SETTINGS_OF_WHOLE_MODELS = (
    "target_parameters",
    "layer_replication",
    "trainable_token_indices",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
    "megatron_config",
    "ensure_weight_tying",
)
"""Settings of adapters that say more than a pair of matrices on a layer."""

_VARIANTS = {"DoraLinearVariant", "DoraEmbeddingVariant"}
"""peft's kinds of adapters, beside the plain one, that change nothing but the layer's own weight."""


class WholeModelNeeded(Exception):
    """Not an error: a base or an adapter that must be merged as a whole model, and why."""


@dataclass(frozen=True)
class ShardPlan:
    """What is to be read, merged and written."""

    model: PreTrainedModel
    """The base on torch's device meta: its settings, and names of weights without values."""
    dtype: torch.dtype
    """Of the fused model."""
    places: dict[str, TensorPlace]
    """The base's tensors in the order of the fused model's."""
    layers: dict[str, Linear | Embedding]
    """peft's layers, none of whose weights have values, by the module's name."""
    adapter: dict[str, torch.Tensor]
    """The adapter's tensors on the CPU, by their names in its file."""
    replaced: dict[str, str]
    """Weights that the adapter brings whole: their names in its file, by the names of the base's."""
    num_parameters: int


def plan_shards(config: Config, *, adapter: Path, facts: AdapterFacts, dtype: torch.dtype | str) -> ShardPlan:
    """Reads headers and the adapter, none of the base's weights. `dtype` "auto": as the base's config.json says.

    Raises WholeModelNeeded where merging tensor by tensor would not be the same, or the base cannot be read so, and
    FuseError for an adapter that does not fit.
    """
    spare_deepspeed_import(config)
    check_device_map(config)
    _check_adapter_settings(adapter)
    model, files = _build_base(config, dtype=dtype)
    try:
        places = _match_names(model, find_tensors(files))
    except KeyError as error:
        raise WholeModelNeeded(f"the base has weights in the number format {error}") from error
    replaced = _find_replaced(facts, places=places)
    num_parameters, dtype = model.num_parameters(), model.dtype
    shared = _find_shared_weights(model)
    attached = attach_adapter(model, adapter=adapter, is_meta=True)
    check_adapter_fits(attached, facts, adapter=adapter)
    # Weights that the adapter brings whole would leave theirs in the model's settings.
    attached.to(dtype)
    layers = _find_layers(model, shared=shared, places=places)
    if shared & set(replaced):
        raise WholeModelNeeded("the adapter brings a weight that the head and the embeddings share")
    with load_errors(f"the adapter in {adapter}", param=PARAM):
        weights = load_file(adapter / WEIGHTS)
    return ShardPlan(model, dtype, places, layers, weights, replaced, num_parameters)


def _check_adapter_settings(adapter: Path) -> None:
    with load_errors(f"the adapter in {adapter}", param=PARAM):
        settings = LoraConfig.from_pretrained(str(adapter))
    if settings.init_lora_weights not in _PLAIN_INITS:
        raise WholeModelNeeded(f"init_lora_weights={settings.init_lora_weights!r} takes the adapter out of the base")
    if settings.bias != "none":
        raise WholeModelNeeded(f"the adapter was trained with bias={settings.bias!r}")
    for name in _SETTINGS_OF_WHOLE_MODELS:
        if getattr(settings, name, None):
            raise WholeModelNeeded(f"the adapter was trained with {name}")


def _build_base(config: Config, *, dtype: torch.dtype | str) -> tuple[PreTrainedModel, TensorFiles]:
    """The model on the device meta, and its files."""
    try:
        with load_errors("the base", param="model_name_or_path"):
            folder = _find_folder(config)
            settings = AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
            files = TensorFiles(folder)
            _check_base(settings, files, dtype=dtype)
            return _build_model(settings, folder=folder, dtype=dtype), files
    except ModelLoadError as error:
        # Told by whoever loads it whole.
        raise WholeModelNeeded(error.message) from error


def _check_base(settings: Any, files: TensorFiles, *, dtype: torch.dtype | str) -> None:
    """Raises ModelLoadError when there are no safetensors files."""
    if find_quantization_settings(files.folder) is not None:
        raise WholeModelNeeded("the base is quantized")
    if getattr(settings, "auto_map", None):
        raise WholeModelNeeded("the base brings code of its own")
    if dtype == "auto" and settings.dtype is None:
        raise WholeModelNeeded("the base's config.json does not name its dtype")
    if not files.names:
        raise WholeModelNeeded("the base has no weights")


def _build_model(settings: Any, *, folder: Path, dtype: torch.dtype | str) -> PreTrainedModel:
    """As `load_model` does, without values."""
    if getattr(settings, "pretraining_tp", 1) != 1:
        settings.pretraining_tp = 1
    build: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        model = build(settings, dtype=settings.dtype if dtype == "auto" else dtype)
    # Without such a file it is what the model has made out of its config.
    with suppress(OSError):
        model.generation_config = GenerationConfig.from_pretrained(folder)
    repair_generation_config(model)
    return model  # type: ignore[no-any-return]


def _find_folder(config: Config) -> Path:
    """Of a Hub's model the snapshot in the cache, downloaded if need be."""
    name = config.model_name_or_path
    if Path(name).is_dir():
        return Path(name)
    options: dict[str, Any] = {"revision": config.model_revision, "token": config.huggingface_hub_token}
    return Path(snapshot_download(name, allow_patterns=_FILES, **options))


def _match_names(model: Any, found: dict[str, TensorPlace]) -> dict[str, TensorPlace]:
    """The places in the order that transformers saves weights in.

    Where names in the files are not the model's own, transformers converts them, and perhaps what they name.
    """
    if model._get_dtype_plan(model.dtype) or model._keys_to_ignore_on_save:
        raise WholeModelNeeded("the model keeps some weights in fp32, or does not save all")
    state = model.state_dict()
    if set(state) != {name for name, _ in model.named_parameters(remove_duplicate=False)}:
        raise WholeModelNeeded("the model saves more than its weights")
    # What a loaded model has whose names are its own: without it, it would be taken for one that was never saved.
    model._weight_conversions = []
    saved = revert_weight_conversion(model, remove_tied_weights_from_state_dict(state, model))
    shapes = {name: tuple(weight.shape) for name, weight in saved.items()}
    differing = set(shapes.items()) ^ {(name, place.shape) for name, place in found.items()}
    if differing:
        raise WholeModelNeeded(f"the base's files name weights as the model does not ({min(differing)[0]})")
    return {name: found[name] for name in shapes}


def _find_replaced(facts: AdapterFacts, *, places: dict[str, TensorPlace]) -> dict[str, str]:
    """Weights that the adapter brings whole: names in its file by names of the base's."""
    replaced = {}
    for key, shape in facts.shapes.items():
        if "lora_" in key:
            continue
        # Of a layer that has an adapter as well, the weight that the adapter was trained on.
        name = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        if name not in places or places[name].shape != shape:
            raise WholeModelNeeded(f"the adapter brings {name} in another form than the base's")
        replaced[name] = key
    return replaced


def _find_shared_weights(model: nn.Module) -> set[str]:
    """Names of weights that are one tensor under several names."""
    named = list(model.named_parameters(remove_duplicate=False))
    counts = Counter(id(weight) for _, weight in named)
    return {name for name, weight in named if counts[id(weight)] > 1}


def _find_layers(
    model: nn.Module, *, shared: set[str], places: dict[str, TensorPlace]
) -> dict[str, Linear | Embedding]:
    layers: dict[str, Linear | Embedding] = {}
    for name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        variants = {type(variant).__name__ for variant in module.lora_variant.values()}
        if type(module) not in (Linear, Embedding) or variants - _VARIANTS:
            kind = ", ".join(variants) or type(module).__name__
            raise WholeModelNeeded(f"{name} has an adapter of the kind {kind}")
        if f"{name}.weight" in shared:
            raise WholeModelNeeded(f"the adapter changes {name}, which shares its weight")
        if f"{name}.weight" not in places:
            raise WholeModelNeeded(f"the base's files have no {name}.weight")
        layers[name] = module  # type: ignore[assignment]
    return layers
