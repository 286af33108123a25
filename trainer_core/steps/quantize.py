"""The step quantize: a whole model in, a smaller one out, checked before it counts."""

import gc
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trainer_core.context import ArtifactFolder, StepContext, StepResult
from trainer_core.datasets.data_keys import apply_data_keys
from trainer_core.enums import Step
from trainer_core.errors import DeviceMemoryError, QuantizationError
from trainer_core.evaluation import EvaluationResult, measure_loss
from trainer_core.file_modes import share_files
from trainer_core.hub.script import connect_script
from trainer_core.quantizers import quantizers_registry
from trainer_core.quantizers.calibration import find_calibration_rows
from trainer_core.quantizers.calibration_room import has_room_beside_model
from trainer_core.quantizers.checkpoint_check import check_saved_layers
from trainer_core.quantizers.loading import find_model_source
from trainer_core.quantizers.verification import measure_in_fresh_process
from trainer_core.rendering import render_batches

if TYPE_CHECKING:
    from trainer_core.config import Config
    from trainer_core.quantizers import Quantizer
    from trainer_core.types import Batch, JsonValue

MAX_VERIFICATION_ROWS = 128
"""Rows for the losses before and after; enough to tell a broken model, little beside the quantization itself."""
LOSS_RISE_WORTH_A_WARNING = 0.5
"""Nats per token."""


def quantize(config: "Config", *, context: StepContext | None = None) -> StepResult:
    """Quantizes a model and saves it with its tokenizer in `quantized_model_path`.

    The model: this job's, the given one, or the Config's (see `find_model_source`). Calibrated on the prepared
    training data or on a given file; neither is changed. The result appears in its folder only after a fresh process
    has loaded it and measured a finite loss. A script pushes it where the Config says; for a job its pipeline does.
    Raises QuantizationError, StepInputError, ModelLoadError, DataError, PushError, NetworkError.
    """
    in_job = context is not None
    context = context or StepContext.for_script(Step.QUANTIZE)
    source = find_model_source(config, context.inputs, in_job=in_job)
    rows = find_calibration_rows(config, context.inputs)
    pusher = None if in_job else connect_script(config, (Step.QUANTIZE,))
    context.events.emit(
        "decision",
        message=f"quantizing the model in {source}, calibrated on the rows of {rows.name}",
        data={"model": source, "calibration_rows": rows.name},
    )
    quantizer = quantizers_registry.get(config.quantizer_key)(config, source=source, rows=rows, context=context)
    try:
        result = _run(quantizer)
    except torch.OutOfMemoryError as error:
        message = f"the GPU's memory ran out while quantizing; lower max_length or quantization_max_samples ({error})"
        raise DeviceMemoryError(message) from error
    return result if pusher is None else pusher.push_result(result, events=context.events)


def _run(quantizer: "Quantizer") -> StepResult:
    quantizer.build()
    batches = _choose_verification_rows(quantizer)
    source_bytes = _count_weight_bytes(quantizer.model)
    before = _measure_source(quantizer, batches)
    if not math.isfinite(before.loss):
        message = (
            f"the model in {quantizer.source} gives a loss of {before.loss} before it is quantized; give a sound one"
        )
        raise QuantizationError(message, param="model_name_or_path")
    quantizer.quantize()
    target = Path(quantizer.config.quantized_model_path)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        quantizer.save(partial)
        check_saved_layers(partial, quantizer.planned_layers)
        _free_memory(quantizer)
        after = measure_in_fresh_process(partial, batches, trust_remote_code=quantizer.config.trust_remote_code)
        _warn_if_worse(quantizer, before=before, after=after)
        _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    artifact = ArtifactFolder.of_files_in(target, name="quantized")
    return StepResult(artifacts=(artifact,), facts=_collect_facts(quantizer, target, source_bytes, before, after))


def _choose_verification_rows(quantizer: "Quantizer") -> "list[Batch]":
    """Held-out rows where the job has some, else those of the calibration."""
    path = quantizer.config.eval_local_path_to_data
    if path is None or not Path(path).is_file() or not Path(path).stat().st_size:
        return quantizer.calibration[:MAX_VERIFICATION_ROWS]
    batches = render_batches(
        Path(path),
        config=apply_data_keys(quantizer.config),
        tokenizer=quantizer.tokenizer,
        batch_size=1,
        limit=MAX_VERIFICATION_ROWS,
    )
    return list(batches)


def _measure_source(quantizer: "Quantizer", batches: "list[Batch]") -> EvaluationResult:
    model: Any = quantizer.model
    moves = torch.cuda.is_available() and model.device.type == "cpu"
    if moves:
        model.to("cuda")
    measured = measure_loss(model, batches)
    if moves and not (quantizer.works_on_gpu and has_room_beside_model()):
        # The quantizer takes layers to the GPU one after the other: a whole model there would be in its way.
        model.to("cpu")
        torch.cuda.empty_cache()
    return measured


def _free_memory(quantizer: "Quantizer") -> None:
    """The fresh process needs the room that the model takes here."""
    del quantizer.model
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _warn_if_worse(quantizer: "Quantizer", *, before: EvaluationResult, after: EvaluationResult) -> None:
    rise = after.loss - before.loss
    if rise > LOSS_RISE_WORTH_A_WARNING:
        quantizer.warn(
            f"quantizing raised the loss from {before.loss:.3f} to {after.loss:.3f}; a smaller gptq_group_size, "
            "more gptq_bits or more calibration data keep more of the model",
            loss_before=before.loss,
            loss_after=after.loss,
        )


def _publish(partial: Path, target: Path) -> None:
    """Moves the files into place; what an earlier run left there would be taken for a part of this model."""
    share_files(partial)
    target.mkdir(parents=True, exist_ok=True)
    for stale in (*target.glob("*.safetensors"), *target.glob("*.safetensors.index.json")):
        stale.unlink()
    for path in sorted(partial.iterdir()):
        path.replace(target / path.name)


def _count_weight_bytes(model: torch.nn.Module) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def _collect_facts(
    quantizer: "Quantizer", target: Path, source_bytes: int, before: EvaluationResult, after: EvaluationResult
) -> "dict[str, JsonValue]":
    return quantizer.facts | {
        "quantizer": quantizer.config.quantizer_key,
        "source": quantizer.source,
        "calibration_rows": quantizer.rows.name,
        "weight_bytes_before": source_bytes,
        "weight_bytes_after": sum(path.stat().st_size for path in target.glob("*.safetensors")),
        "loss_before": before.loss,
        "loss_after": after.loss,
        "num_verification_rows": after.num_rows,
        "num_verification_tokens": after.num_tokens,
    }
