"""Loading of a checkpoint with quantized layers, without unpacking it.

transformers reads GPTQ checkpoints through packages that do not go with ours, and compressed-tensors ones in a form
that no adapter can be trained on. It takes quantizers of others, though: this one puts our layers into the model's
skeleton, lets transformers fill them (shards, devices, tied weights), and turns them into their final form.
"""

from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin, QuantizationMethod

from trainer_core.errors import ModelLoadError
from trainer_core.models.packed.checkpoint import PARAM, PackedCheckpoint, PackedLayer, read_packed_checkpoint
from trainer_core.models.packed.linear import PackedLinear

METHOD = "finesmith_packed"
_FILES = ["*.json", "*.safetensors", "*.py", "*.jinja", "tokenizer*"]
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "I32": torch.int32, "I64": torch.int64}


def load_packed_model(name: str, *, options: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    """The model with a PackedLinear for every quantized layer, and transformers' notes on what it found.

    `name` is a folder or a Hub name, `options` go to `from_pretrained`. Scales keep the checkpoint's number format,
    everything else gets `options["dtype"]`. Raises ModelLoadError.
    """
    folder = fetch_model_folder(name, options=options)
    checkpoint = read_packed_checkpoint(folder)
    trust = {"trust_remote_code": options.get("trust_remote_code", False)}
    config = AutoConfig.from_pretrained(folder, **trust)
    config.quantization_config = {"quant_method": METHOD, "checkpoint": checkpoint}
    _register()
    remote = ("revision", "token")
    kept = {key: value for key, value in options.items() if key not in remote}
    loaded = AutoModelForCausalLM.from_pretrained(folder, **(kept | {"config": config, "output_loading_info": True}))
    model, info = cast("tuple[PreTrainedModel, Any]", loaded)
    model.config.name_or_path = name
    model.name_or_path = name
    return model, info


def fetch_model_folder(name: str, *, options: dict[str, Any]) -> Path:
    """The folder itself, or that of the Hub's model in the cache, downloaded if need be."""
    if Path(name).is_dir():
        return Path(name)
    return Path(
        snapshot_download(
            name, revision=options.get("revision"), token=options.get("token"), allow_patterns=_FILES, max_workers=4
        )
    )


def read_quant_method(name: str, *, options: dict[str, Any]) -> str | None:
    """How a folder or a Hub model says that it is quantized, such as `gptq`; None: not at all, or it has no config.

    Of a Hub model's files only config.json is looked at: a few GPTQ models of 2023 have quantize_config.json alone.
    """
    remote = {key: options[key] for key in ("revision", "token", "trust_remote_code") if key in options}
    try:
        settings = getattr(AutoConfig.from_pretrained(name, **remote), "quantization_config", None)
    except (OSError, ValueError):
        # What is wrong with it is told by whoever loads it.
        return None
    if isinstance(settings, dict):
        return str(settings.get("quant_method"))
    return "gptq" if (Path(name) / "quantize_config.json").is_file() else None


def find_packed_layers(model: nn.Module) -> dict[str, PackedLinear]:
    """The packed layers of a model, or of the base below its adapter, by path."""
    return {name: module for name, module in model.named_modules() if isinstance(module, PackedLinear)}


def dequantize_model(model: PreTrainedModel, *, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Turns every packed layer into a plain linear one, in place, and the model into one that was never quantized.

    `dtype` None: the model's own. The products are computed in the scales' number format, as its readers do.
    """
    dtype = dtype or model.dtype
    for name, packed in find_packed_layers(model).items():
        plain = nn.Linear(packed.in_features, packed.out_features, bias=packed.bias is not None, device="meta")
        plain.weight = nn.Parameter(packed.packed_weight.dequantize(dtype))
        if packed.bias is not None:
            plain.bias = nn.Parameter(packed.bias.data.to(dtype))
        model.set_submodule(name, plain)
    for owner, attribute in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model.config, "quantization_config"),
    ):
        if hasattr(owner, attribute):
            delattr(owner, attribute)
    loaded: Any = model
    loaded.is_quantized = False
    return model


class PackedSettings(QuantizationConfigMixin):
    """What transformers hands from the model's config to the quantizer."""

    def __init__(self, checkpoint: PackedCheckpoint, **_: Any) -> None:
        self.quant_method = cast("QuantizationMethod", METHOD)
        self.checkpoint = checkpoint

    def to_dict(self) -> dict[str, Any]:
        """What the checkpoint said of itself: this is saved and shown."""
        return dict(self.checkpoint.settings)


class PackedQuantizer(HfQuantizer):
    """Puts packed layers where the checkpoint has quantized ones."""

    requires_calibration = False

    @property
    def checkpoint(self) -> PackedCheckpoint:
        """What is loaded."""
        return cast("PackedSettings", self.quantization_config).checkpoint

    @property
    def is_trainable(self) -> bool:
        """Adapters over it are."""
        return True

    def is_serializable(self) -> bool:
        """The base lies in its folder already."""
        return False

    def update_device_map(self, device_map: dict[str, Any] | None) -> dict[str, Any] | None:
        """Without one, the current GPU if there is one, as for other quantized bases."""
        if device_map is None and torch.cuda.is_available():
            return {"": torch.cuda.current_device()}
        return device_map

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        for name, layer in self.checkpoint.layers.items():
            model.set_submodule(name, _build_skeleton(model, layer))

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> PreTrainedModel:
        for name, module in find_packed_layers(model).items():
            raw = module.take_raw()
            if any(tensor.device.type == "meta" for tensor in raw.values()):
                message = (
                    f"the quantized layer {name} does not fit the devices; packed layers are not offloaded to disk"
                )
                raise ModelLoadError(message, param="device_map")
            module.adopt(self.checkpoint.read_layer(self.checkpoint.layers[name], raw))
        # By this name peft knows that adapters must not be merged into such a base, and transformers that it has a
        # number format of its own.
        loaded: Any = model
        loaded.quantization_method = QuantizationMethod.GPTQ
        return model


def _build_skeleton(model: PreTrainedModel, layer: PackedLayer) -> PackedLinear:
    try:
        plain = model.get_submodule(layer.name)
    except AttributeError:
        plain = None
    if not isinstance(plain, nn.Linear):
        message = (
            f"the checkpoint's quantized layer {layer.name} is no linear layer of {type(model).__name__}; it was made "
            "for a model of another kind, or by another version of transformers"
        )
        raise ModelLoadError(message, param=PARAM)
    if (plain.out_features, plain.in_features) != (layer.num_outputs, layer.num_inputs):
        found = f"{layer.num_outputs} by {layer.num_inputs}"
        message = (
            f"the quantized layer {layer.name} is {found}, the model wants {plain.out_features} by {plain.in_features}"
        )
        raise ModelLoadError(message, param=PARAM)
    bias = plain.bias
    if bias is None and layer.has_bias:
        # Early tools stored a bias, of zeros, for layers that have none.
        bias = nn.Parameter(
            torch.empty(layer.num_outputs, device="meta", dtype=plain.weight.dtype), requires_grad=False
        )
    packed = PackedLinear(layer.num_inputs, layer.num_outputs, bias=bias)
    headers = layer.headers.items()
    packed.hold_raw(
        {suffix: torch.empty(head.shape, dtype=_DTYPES[head.dtype], device="meta") for suffix, head in headers}
    )
    return packed


def _register() -> None:
    AUTO_QUANTIZER_MAPPING.setdefault(METHOD, PackedQuantizer)
    AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(METHOD, PackedSettings)
