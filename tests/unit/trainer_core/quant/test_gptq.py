"""GPTQ on a tiny trained model: better than rounding, and strict."""

import io
import json
from pathlib import Path

import pytest
import torch

from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.errors import ModelLoadError, QuantizationError
from trainer_core.evaluation import measure_loss
from trainer_core.events import EventWriter
from trainer_core.quantizers import GPTQQuantizer, quantizers_registry
from trainer_core.quantizers.calibration import find_calibration_rows


def build_quantizer(config, folder: Path) -> GPTQQuantizer:
    context = StepContext(step=Step.QUANTIZE, events=EventWriter(folder / "events.jsonl", step=Step.QUANTIZE))
    rows = find_calibration_rows(config, context.inputs)
    quantizer = quantizers_registry.get("gptq")(config, source=config.model_name_or_path, rows=rows, context=context)
    quantizer.build()
    return quantizer


def test_errors_of_the_layers_outputs_are_smaller_than_with_rounding_to_nearest(make_config, tmp_path) -> None:
    quantizer = build_quantizer(make_config(quantization_max_samples=0), tmp_path)
    layer = quantizer.model.get_submodule("model.layers.0.mlp.gate_proj")
    original, inputs = layer.weight.detach().clone(), []
    handle = layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0].flatten(0, 1)))
    measure_loss(quantizer.model, quantizer.calibration)
    handle.remove()
    seen = torch.cat(inputs)
    quantizer.quantize()

    groups = original.unflatten(1, (-1, 64))
    scales = groups.abs().amax(dim=2, keepdim=True) / 7.5
    rounded = ((groups / scales).round().clamp(-8, 7) * scales).flatten(1)

    def error(weight: torch.Tensor) -> float:
        return float((seen @ (weight - original).T).square().mean())

    assert error(layer.weight.detach()) < 0.7 * error(rounded)


def test_eight_bits_keep_the_loss_to_the_hundredth(make_config, tmp_path) -> None:
    quantizer = build_quantizer(make_config(gptq_bits=8), tmp_path)
    before = measure_loss(quantizer.model, quantizer.calibration)
    quantizer.quantize()
    after = measure_loss(quantizer.model, quantizer.calibration)
    assert abs(after.loss - before.loss) < 0.01
    assert quantizer.model.get_submodule("model.layers.0.mlp.up_proj").quantization_scheme.weights.num_bits == 8


def test_a_layer_that_gptq_cannot_solve_fails_by_name_instead_of_being_rounded(make_config, tmp_path) -> None:
    quantizer = build_quantizer(make_config(), tmp_path)
    norm = quantizer.model.get_submodule("model.layers.1.post_attention_layernorm")
    with torch.no_grad():
        norm.weight.fill_(float("nan"))
    with pytest.raises(QuantizationError, match=r"model\.layers\.1\.mlp\.(gate|up)_proj"):
        quantizer.quantize()


def test_a_layer_that_no_sample_reaches_fails_by_name(make_config, tmp_path) -> None:
    quantizer = build_quantizer(make_config(), tmp_path)
    # A linear layer that the forward pass never calls, as an expert that no token was routed to.
    quantizer.model.model.layers[0].mlp.unused_expert = torch.nn.Linear(64, 64)
    quantizer.plan = quantizer.build_plan()
    with pytest.raises(QuantizationError, match=r"no calibration sample reached 1 layers.*mlp\.unused_expert"):
        quantizer.quantize()


def test_the_users_own_loguru_log_survives_the_librarys_import(make_config, tmp_path, capfd) -> None:
    from loguru import logger

    sink = io.StringIO()
    handler = logger.add(sink, format="{message}")
    try:
        build_quantizer(make_config(), tmp_path).quantize()
        logger.info("still here")
    finally:
        logger.remove(handler)
    assert sink.getvalue() == "still here\n"
    assert "Calibrating" not in capfd.readouterr().err


def test_progress_ends_with_all_layers(make_config, tmp_path) -> None:
    build_quantizer(make_config(), tmp_path).quantize()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert events[-1]["type"] == "progress"
    assert events[-1]["data"] == {"global_step": 14, "total_steps": 14}


def test_a_model_that_does_not_exist_is_named(make_config, tmp_path) -> None:
    with pytest.raises(ModelLoadError, match="no-such-model"):
        build_quantizer(make_config(model_name_or_path=str(tmp_path / "no-such-model")), tmp_path)
