"""Each quantizer on a tiny trained model: smaller, nearly as good, loadable, strict."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.support.tiny_models import build_tiny_gpt2
from trainer_core.config import Config
from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.errors import QuantizationError, StepInputError
from trainer_core.evaluation import measure_loss
from trainer_core.events import EventWriter
from trainer_core.quantizers import Quantizer, quantizers_registry
from trainer_core.quantizers.calibration import find_calibration_rows
from trainer_core.quantizers.checkpoint_check import check_saved_layers, find_quantized_layers
from trainer_core.quantizers.loading import load_quantized_model

# AWQ tries 20 scales on every sample: few of them keep the test short.
AWQ = {"quantizer_key": "awq", "quantization_max_samples": 10}
QUANTIZERS = [
    pytest.param(AWQ, 0.36, 0.1, id="awq"),
    pytest.param({"quantizer_key": "fp8"}, 0.45, 0.05, id="fp8"),
    pytest.param({"quantizer_key": "w8a8"}, 0.45, 0.05, id="w8a8"),
    pytest.param({"quantizer_key": "bnb"}, 0.36, 0.1, id="bnb in 4 bits"),
    pytest.param({"quantizer_key": "bnb", "gptq_bits": 8}, 0.45, 0.05, id="bnb in 8 bits"),
    pytest.param({"quantizer_key": "gptq", "gptq_bits": 2, "gptq_group_size": 64}, 0.31, 0.3, id="gptq in 2 bits"),
    pytest.param({"quantizer_key": "gptq", "gptq_bits": 3, "gptq_group_size": 64}, 0.33, 0.2, id="gptq in 3 bits"),
]


def build_quantizer(config: Config, folder: Path) -> Quantizer:
    context = StepContext(step=Step.QUANTIZE, events=EventWriter(folder / "events.jsonl", step=Step.QUANTIZE))
    rows = find_calibration_rows(config, context.inputs)
    quantizer_class = quantizers_registry.get(config.quantizer_key)
    quantizer = quantizer_class(config, source=config.model_name_or_path, rows=rows, context=context)
    quantizer.build()
    return quantizer


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize(("values", "size_ratio", "loss_change"), QUANTIZERS)
# bitsandbytes tells that it computes in fp16.
@pytest.mark.filterwarnings("ignore:MatMul8bitLt")
def test_the_saved_model_is_small_whole_and_nearly_as_good(
    make_config, trained_model, tmp_path, values, size_ratio, loss_change
) -> None:
    quantizer = build_quantizer(make_config(**{"gptq_group_size": 128} | values), tmp_path)
    before = measure_loss(quantizer.model, quantizer.calibration)
    quantizer.quantize()
    folder = tmp_path / "quantized"
    quantizer.save(folder)

    assert len(quantizer.planned_layers) == quantizer.facts["num_layers"] == 14
    assert find_quantized_layers(folder) == set(quantizer.planned_layers)
    assert check_saved_layers(folder, quantizer.planned_layers) == 14
    assert count_bytes(folder) < size_ratio * count_bytes(trained_model)
    model = load_quantized_model(folder, device_map=None, trust_remote_code=False)
    after = measure_loss(model, quantizer.calibration)
    assert after.loss != before.loss, "something was quantized"
    assert abs(after.loss - before.loss) < loss_change
