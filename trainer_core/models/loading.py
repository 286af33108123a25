"""Loading of a base model for training, fusing and quantizing."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from trainer_core.config import Config
from trainer_core.errors import ModelLoadError
from trainer_core.models.attention import choose_attention
from trainer_core.models.device_map import check_device_map
from trainer_core.models.dtype import choose_dtype
from trainer_core.models.failures import load_errors
from trainer_core.models.library_habits import spare_deepspeed_import
from trainer_core.models.packed.checkpoint import PackedLayout, find_quantization_settings
from trainer_core.models.packed.loading import (
    dequantize_model,
    fetch_model_folder,
    load_packed_model,
    read_quant_method,
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LoadingChoices:
    """What a step decides about loading beyond the Config."""

    dtype: torch.dtype | str | None = None
    """None: by the dtype rules; "auto": as the checkpoint was saved."""
    quantization_config: Any = None
    device_map: str | None = None
    """None: the CPU, or for a quantized model the current GPU."""
    for_training: bool = False
    """Whether an adapter goes onto it: a base that is quantized already then needs `from_gptq`."""
    packed: Literal["keep", "dequantize"] = "keep"
    """What becomes of the layers of a GPTQ or compressed-tensors checkpoint: a merge needs them in 16 bits."""


def load_model(config: Config, *, choices: LoadingChoices | None = None, name: str | None = None) -> PreTrainedModel:
    """The causal language model `name`, None: the Config's, from safetensors files only.

    A GPTQ checkpoint, and with `from_gptq` a compressed-tensors one, comes with packed layers. Raises ModelLoadError
    when the model does not exist, is of another kind, lacks weights, or is quantized where `from_gptq` says it is not.
    """
    spare_deepspeed_import(config)
    check_device_map(config)
    choices = choices or LoadingChoices(device_map=config.device_map)
    name = name or config.model_name_or_path
    options: dict[str, Any] = {
        "dtype": choices.dtype or choose_dtype(config),
        "trust_remote_code": config.trust_remote_code,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    optional = {
        "quantization_config": choices.quantization_config,
        "device_map": choices.device_map,
        "attn_implementation": choose_attention(config),
        "revision": config.model_revision if name == config.model_name_or_path else None,
        "token": config.huggingface_hub_token,
        "offload_folder": config.offload_folder,
    }
    options |= {key: value for key, value in optional.items() if value is not None}
    with load_errors(f"the model {name!r}", param="model_name_or_path"):
        if _reads_packed(config, choices, name=name, options=options):
            loaded: Any = _load_packed(name, choices=choices, options=options)
        else:
            loaded = AutoModelForCausalLM.from_pretrained(name, **options)
    model: PreTrainedModel = loaded[0]
    _check_all_weights_came(model, loaded[1], name=name)
    if choices.packed == "dequantize":
        model = dequantize_model(model)
    if getattr(model.config, "pretraining_tp", 1) != 1:
        model.config.pretraining_tp = 1
    repair_generation_config(model)
    return model


def _reads_packed(config: Config, choices: LoadingChoices, *, name: str, options: dict[str, Any]) -> bool:
    """Whether the model's layers are read by our own loader. Raises ModelLoadError when `from_gptq` is wrong for it."""
    method = read_quant_method(name, options=options)
    if method is None and config.from_gptq and name == config.model_name_or_path:
        settings = find_quantization_settings(fetch_model_folder(name, options=options))
        method = None if settings is None else str(settings.get("quant_method"))
    is_packed = method in tuple(PackedLayout)
    is_configured = name == config.model_name_or_path
    if config.from_gptq and is_configured and not is_packed:
        found = f"is quantized by {method}" if method else "is not quantized"
        message = f"from_gptq continues from a GPTQ or compressed-tensors model, but {name!r} {found}; leave it out"
        raise ModelLoadError(message, param="from_gptq")
    if is_packed and choices.for_training and not config.from_gptq:
        message = (
            f"the model {name!r} is quantized already ({method}); set from_gptq=True and apply_lora=True to train an "
            "adapter over it, or give the unquantized model"
        )
        raise ModelLoadError(message, param="from_gptq")
    return is_packed and (
        method == PackedLayout.GPTQ or choices.packed == "dequantize" or (config.from_gptq and is_configured)
    )


def _load_packed(name: str, *, choices: LoadingChoices, options: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    if choices.quantization_config is not None:
        message = f"the model {name!r} is quantized already; leave load_in_4bit and load_in_8bit out"
        raise ModelLoadError(message, param="from_gptq")
    if choices.packed == "dequantize" and choices.device_map is None:
        # A merge runs in host memory unless it is told otherwise; packed layers would go to the GPU.
        options = options | {"device_map": {"": "cpu"}}
    return load_packed_model(name, options=options)


def _check_all_weights_came(model: PreTrainedModel, info: Any, *, name: str) -> None:
    """transformers only warns when weights are missing, and leaves them random: training would go on from noise."""
    parameters = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    missing = sorted(set(info["missing_keys"]) & parameters)
    mismatched = sorted(str(key) for key in info["mismatched_keys"])
    if missing or mismatched:
        shown = ", ".join((missing + mismatched)[:5])
        message = (
            f"the model {name!r} lacks {len(missing) + len(mismatched)} weights of a {type(model).__name__} ({shown}"
            f"{', …' if len(missing) + len(mismatched) > 5 else ''}); it is not a whole causal language model"
        )
        raise ModelLoadError(message, param="model_name_or_path")


def repair_generation_config(model: PreTrainedModel) -> None:
    """Turns sampling on where a model's generation settings name a temperature or top_p but no sampling.

    Several published models do so, and transformers refuses to save such settings.
    """
    settings = model.generation_config
    if settings is None or settings.do_sample:
        return
    try:
        settings.validate(strict=True)
    except ValueError as error:
        _logger.info("generation settings of the base turned to do_sample=True: %s", error)
        settings.do_sample = True
