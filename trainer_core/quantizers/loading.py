"""Finding and loading the model that is quantized."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer_core.errors import QuantizationError
from trainer_core.models.loading import LoadingChoices, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from trainer_core.config import Config
    from trainer_core.job_spec import StepInputs


def find_model_source(config: "Config", inputs: "StepInputs", *, in_job: bool) -> str:
    """The model to quantize: this job's fused, its fully trained, another job's, a script's fused folder, the base's.

    `in_job` says that `output_dir` belongs to this job alone, so that a whole model in it is what this job trained.
    """
    if config.fused_model_local_path is not None and is_model_folder(Path(config.fused_model_local_path)):
        return config.fused_model_local_path
    if in_job and is_model_folder(Path(config.output_dir)):
        return config.output_dir
    if inputs.model is not None:
        return inputs.model
    return config.model_name_or_path


def is_model_folder(folder: Path) -> bool:
    """Whether a whole model's settings and weights lie directly in the folder."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def load_quantized_model(folder: Path, *, device_map: str | None, trust_remote_code: bool) -> "PreTrainedModel":
    """What a quantizer has saved, in evaluation mode: a GPTQ checkpoint by our own loader, others by transformers'.

    Raises QuantizationError for weights that the checkpoint does not bring: they would be random.
    """
    from transformers import AutoModelForCausalLM

    from trainer_core.models.packed.loading import load_packed_model, read_quant_method

    options = {
        **{"dtype": "auto", "device_map": device_map},
        **{"trust_remote_code": trust_remote_code, "use_safetensors": True},
    }
    if read_quant_method(str(folder), options=options) == "gptq":
        model, info = load_packed_model(str(folder), options=options)
    else:
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
        model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        shown = ", ".join(missing[:3])
        raise QuantizationError(f"the quantized model lacks {len(missing)} weights when it is loaded again: {shown}")
    model.train(False)
    return model


def load_source_model(source: str, *, config: "Config") -> "PreTrainedModel":
    """The model in the precision that it was saved in, unless `force_fp32` or `force_fp16` says else.

    Raises ModelLoadError, and QuantizationError for a model that is quantized already.
    """
    import torch

    dtype = torch.float32 if config.force_fp32 else torch.float16 if config.force_fp16 else "auto"
    model = load_model(config, choices=LoadingChoices(dtype=dtype, device_map=config.device_map), name=source)
    if getattr(model.config, "quantization_config", None) is not None:
        message = f"the model {source!r} is quantized already; give the full one"
        raise QuantizationError(message, param="model_name_or_path")
    model.train(False)
    return model
