"""Each quantizer on a tiny trained model: smaller, nearly as good, loadable, strict."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from tests.support.tiny_models import build_tiny_gpt2, build_tiny_tokenizer
from trainer_core.config import Config, build_config
from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.errors import QuantizationError, StepInputError
from trainer_core.evaluation import measure_loss
from trainer_core.events import EventWriter
from trainer_core.quantizers import Quantizer, quantizers_registry
from trainer_core.quantizers.calibration import find_calibration_rows
from trainer_core.quantizers.checkpoint_check import check_saved_layers, find_quantized_layers
from trainer_core.quantizers.loading import load_quantized_model
from trainer_core.steps.quantize import quantize

# AWQ tries 20 scales on every sample: few of them keep the test short.
AWQ = {"quantizer_key": "awq", "quantization_max_samples": 4}
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


@pytest.mark.slow
@pytest.mark.parametrize(("values", "size_ratio", "loss_change"), QUANTIZERS)
def test_the_step_tells_size_and_loss_of_what_a_fresh_process_loads(
    make_config, tmp_path, values, size_ratio, loss_change
) -> None:
    context = StepContext(step=Step.QUANTIZE, events=EventWriter(tmp_path / "events.jsonl", step=Step.QUANTIZE))
    facts = quantize(make_config(**{"gptq_group_size": 128} | values), context=context).facts
    assert facts["quantizer"] == values["quantizer_key"]
    assert facts["weight_bytes_after"] < size_ratio * facts["weight_bytes_before"]
    assert abs(facts["loss_after"] - facts["loss_before"]) < loss_change


@pytest.mark.parametrize(
    ("values", "words"),
    [
        pytest.param({"quantizer_key": "fp8"}, r"model\.layers\.1\.mlp\.up_proj has weights that are not", id="fp8"),
        pytest.param(AWQ, r"model\.layers\.1\.mlp\.up_proj", id="awq"),
        pytest.param({"quantizer_key": "w8a8"}, r"not finite|model\.layers\.1\.mlp", id="w8a8"),
    ],
)
def test_a_layer_that_the_method_fails_on_is_an_error_that_names_it(make_config, tmp_path, values, words) -> None:
    quantizer = build_quantizer(make_config(**{"gptq_group_size": 128} | values), tmp_path)
    with torch.no_grad():
        quantizer.model.get_submodule("model.layers.1.mlp.up_proj").weight[0, 0] = float("nan")
    with pytest.raises(QuantizationError, match=words):
        quantizer.quantize()


@pytest.mark.parametrize(("key", "param"), [("awq", "quantizer_key"), ("w8a8", "smoothing_strength")])
def test_a_model_whose_layers_a_method_cannot_pair_is_refused_by_option(make_config, tmp_path, key, param) -> None:
    config = GPTNeoXConfig(
        vocab_size=384, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=2
    )
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "neox")
    build_tiny_tokenizer().save_pretrained(tmp_path / "neox")
    values = {"model_name_or_path": str(tmp_path / "neox"), "gptq_group_size": 128, "quantizer_key": key}
    quantizer = build_quantizer(make_config(**values), tmp_path)
    with pytest.raises(QuantizationError, match="GPTNeoXForCausalLM") as caught:
        quantizer.quantize()
    assert caught.value.param == param


@pytest.mark.parametrize("key", ["gptq", "awq", "fp8", "w8a8"])
def test_gpt2_is_refused_before_the_work_where_its_layers_cannot_be_taken(make_config, tmp_path, key) -> None:
    folder = build_tiny_gpt2(tmp_path / "gpt2")
    with pytest.raises(QuantizationError, match="GPT2LMHeadModel has no linear layer"):
        build_quantizer(make_config(model_name_or_path=str(folder), quantizer_key=key, gptq_group_size=128), tmp_path)


def test_gpt2_is_taken_by_bitsandbytes(make_config, tmp_path) -> None:
    folder = build_tiny_gpt2(tmp_path / "gpt2")
    config = make_config(model_name_or_path=str(folder), quantizer_key="bnb", gptq_group_size=128)
    quantizer = build_quantizer(config, tmp_path)
    quantizer.quantize()
    quantizer.save(tmp_path / "quantized")
    assert check_saved_layers(tmp_path / "quantized", quantizer.planned_layers) == 8
    model = load_quantized_model(tmp_path / "quantized", device_map=None, trust_remote_code=False)
    whole = AutoModelForCausalLM.from_pretrained(folder)
    losses = [measure_loss(one, quantizer.calibration).loss for one in (model, whole)]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)


def test_a_calibration_set_too_small_is_refused_before_the_work(make_config, tmp_path) -> None:
    rows = tmp_path / "one.jsonl"
    rows.write_text(json.dumps({"text": "Hi"}) + "\n")
    config = make_config(dataset_key="soda", quantization_dataset_id=str(rows))
    with pytest.raises(StepInputError, match=r"1 calibration samples hold 3 tokens.*320") as caught:
        build_quantizer(config, tmp_path)
    assert caught.value.param == "quantization_max_samples"


@pytest.mark.parametrize("values", [{"quantizer_key": "fp8"}, {"quantizer_key": "bnb"}])
def test_a_method_without_calibration_takes_a_single_row_to_look_at(make_config, tmp_path, values) -> None:
    rows = tmp_path / "one.jsonl"
    rows.write_text(json.dumps({"text": "Hi"}) + "\n")
    config = make_config(dataset_key="soda", quantization_dataset_id=str(rows), gptq_group_size=128, **values)
    quantizer = build_quantizer(config, tmp_path)
    quantizer.quantize()
    assert len(quantizer.calibration) == 1
    assert quantizer.facts["num_layers"] == len(quantizer.planned_layers) > 0


EFFECTS = [
    pytest.param({}, {"dampening_frac": 0.5}, id="dampening_frac"),
    pytest.param({}, {"actorder": None}, id="actorder"),
    pytest.param({}, {"gptq_group_size": 32}, id="gptq_group_size"),
    pytest.param({}, {"gptq_bits": 8}, id="gptq_bits"),
    pytest.param({}, {"quantization_max_samples": 8}, id="quantization_max_samples"),
    pytest.param(
        {"quantizer_key": "w8a8", "gptq_group_size": 128, "smoothing_strength": 0},
        {"smoothing_strength": 0.8},
        id="smoothing_strength",
    ),
]


@pytest.mark.parametrize(("base", "changed"), EFFECTS)
def test_each_key_changes_the_quantized_weights(make_config, tmp_path, base, changed, quantized_weights) -> None:
    first = quantized_weights({"quantization_max_samples": 24} | base)
    second = quantized_weights({"quantization_max_samples": 24} | base | changed)
    assert not torch.equal(first, second)


@pytest.fixture(scope="module")
def quantized_weights(
    trained_model: Path, chat_rows: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[dict], torch.Tensor]:
    """The values that one layer's weights have after quantization by the Config's keys; each is computed once."""
    known: dict[str, torch.Tensor] = {}

    def run(values: dict) -> torch.Tensor:
        name = json.dumps(values, sort_keys=True)
        if name not in known:
            folder = tmp_path_factory.mktemp("effects")
            paths = {"model_name_or_path": str(trained_model), "train_local_path_to_data": str(chat_rows)}
            config = build_config({"dataset_key": "chat", "gptq_group_size": 64} | paths | values)
            quantizer = build_quantizer(config, folder)
            quantizer.quantize()
            known[name] = quantizer.model.get_submodule("model.layers.0.mlp.gate_proj").weight.detach().clone()
        return known[name]

    return run
