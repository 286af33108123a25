"""The step quantize with `quantization_format="gptq"`, checked by a fresh process, and an adapter over its result."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.support.tiny_models import build_tiny_llama, iterate_sentences
from trainer_core.config import Config, build_config, dump_config
from trainer_core.context import StepResult
from trainer_core.datasets import GeneralDataset
from trainer_core.errors import ConfigError, QuantizationError
from trainer_core.experiments.base import Experiment
from trainer_core.models.packed.gptq_files import convert_to_compressed_tensors
from trainer_core.models.packed.loading import find_packed_layers, load_packed_model
from trainer_core.steps.quantize import quantize

NUM_LAYERS = 7


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, StepResult]:
    """One run for all tests here: llm-compressor takes its time."""
    folder = tmp_path_factory.mktemp("run")
    source = build_tiny_llama(folder / "source", num_hidden_layers=1)
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text}) + "\n" for text in list(iterate_sentences())[:24]))
    config = build_config(
        {
            "model_name_or_path": str(source),
            "train_local_path_to_data": str(rows),
            "dataset_key": "general",
            "output_dir": str(folder / "outputs"),
            "quantized_model_path": str(folder / "quantized"),
            "quantization_format": "gptq",
            "max_length": 32,
        }
    )
    return config, quantize(config)


def test_the_folder_is_a_gptq_checkpoint_that_a_fresh_process_has_loaded(run) -> None:
    config, result = run
    folder = Path(config.quantized_model_path)
    settings = json.loads((folder / "quantize_config.json").read_text())
    assert settings["quant_method"] == "gptq"
    assert (settings["bits"], settings["group_size"], settings["sym"], settings["desc_act"]) == (4, 128, True, False)
    assert result.facts["loss_after"] == pytest.approx(result.facts["loss_before"], abs=0.1)
    assert result.facts["weight_bytes_after"] < result.facts["weight_bytes_before"] / 2
    assert {"quantize_config.json", "model.safetensors", "tokenizer.json"} <= set(result.artifacts[0].files)


def test_weights_are_those_of_the_other_format(run, tmp_path) -> None:
    import shutil

    config, _ = run
    folder = tmp_path / "compressed"
    shutil.copytree(config.quantized_model_path, folder)
    packed, _ = load_packed_model(str(folder), options={"dtype": torch.float32})
    assert len(find_packed_layers(packed)) == NUM_LAYERS
    convert_to_compressed_tensors(folder)
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.arange(3, 19).unsqueeze(0)
    with torch.no_grad():
        assert torch.equal(theirs(tokens).logits, packed(tokens).logits)


def test_an_adapter_is_trained_over_what_was_quantized(run, tmp_path) -> None:
    config, _ = run
    keys: dict[str, object] = {
        "model_name_or_path": config.quantized_model_path,
        "output_dir": str(tmp_path / "outputs"),
        "train_local_path_to_data": config.train_local_path_to_data,
        "dataset_key": "general",
        "from_gptq": True,
        "apply_lora": True,
        "max_length": 32,
        "max_steps": 3,
        "gradient_accumulation_steps": 1,
        "learning_rate": 1e-2,
        "warmup_steps": 0,
        "logging_steps": 1,
        "optim": "adamw_torch",
    }
    rows = [{"text": text[:60]} for text in list(iterate_sentences())[:16]]
    experiment: Any = Experiment(build_config(keys), train_dataset=GeneralDataset(rows))
    experiment.build()
    experiment.run()
    losses = [record["loss"] for record in experiment.trainer.state.log_history if "loss" in record]
    assert losses[-1] < losses[0]


def test_what_is_quantized_already_is_not_quantized_again(run, tmp_path) -> None:
    config, _ = run
    keys = {"model_name_or_path": config.quantized_model_path, "quantized_model_path": str(tmp_path / "again")}
    with pytest.raises(QuantizationError, match="is quantized already"):
        quantize(build_config(dump_config(config) | keys))


def test_other_quantizers_have_no_gptq_layout() -> None:
    with pytest.raises(ConfigError, match="quantization_format='gptq' is read by quantizer_key='gptq' only"):
        build_config({"quantizer_key": "awq", "quantization_format": "gptq"})
