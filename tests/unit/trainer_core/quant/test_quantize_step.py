"""The step quantize, run once: what it writes, says and leaves alone."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from trainer_core.config import build_config
from trainer_core.context import StepContext, StepResult
from trainer_core.enums import Step
from trainer_core.errors import QuantizationError, StepInputError
from trainer_core.evaluation import evaluate_loss
from trainer_core.events import EventWriter
from trainer_core.job_spec import StepInputs
from trainer_core.quantizers.loading import find_model_source
from trainer_core.steps.quantize import quantize


@dataclass(frozen=True)
class Run:
    folder: Path
    result: StepResult
    events: list[dict]
    values: dict[str, object]


def make_context(folder: Path) -> StepContext:
    return StepContext(step=Step.QUANTIZE, events=EventWriter(folder / "events.jsonl", step=Step.QUANTIZE))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, trained_model: Path, chat_rows: Path) -> Run:
    """One quantization whose group size does not fit the down projections, into a folder that is not empty."""
    root = tmp_path_factory.mktemp("quantize")
    folder = root / "quantized"
    folder.mkdir()
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"an earlier model")
    (folder / "notes.txt").write_text("the user's own")
    values = {
        "model_name_or_path": str(trained_model),
        "train_local_path_to_data": str(chat_rows),
        "dataset_key": "chat",
        "output_dir": str(root / "outputs"),
        "quantized_model_path": str(folder),
    }
    result = quantize(build_config(values), context=make_context(root))
    events = [json.loads(line) for line in (root / "events.jsonl").read_text().splitlines()]
    return Run(folder=folder, result=result, events=events, values=values)


def test_the_model_is_smaller_and_predicts_about_as_well(run) -> None:
    facts = run.result.facts
    assert facts["weight_bytes_after"] < 0.55 * facts["weight_bytes_before"]
    assert facts["loss_before"] < 3, "the model has learned something that could be lost"
    assert abs(facts["loss_after"] - facts["loss_before"]) < 0.3
    assert facts["num_calibration_samples"] == 72


def test_the_artifact_is_a_whole_compressed_tensors_folder_with_its_tokenizer(run) -> None:
    (artifact,) = run.result.artifacts
    assert artifact.name == "quantized"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(artifact.files)
    settings = json.loads((run.folder / "config.json").read_text())["quantization_config"]
    assert settings["quant_method"] == "compressed-tensors"
    packed = load_file(run.folder / "model.safetensors")
    assert packed["model.layers.0.self_attn.q_proj.weight_packed"].dtype == torch.int32
    assert packed["lm_head.weight"].dtype == torch.float32


def test_a_layer_that_no_group_fits_gets_one_scale_a_row_and_a_warning_names_it(run) -> None:
    (warning,) = [event for event in run.events if event["type"] == "warning"]
    assert "gptq_group_size=128" in warning["message"]
    assert warning["data"]["layers"] == ["model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]
    packed = load_file(run.folder / "model.safetensors")
    assert packed["model.layers.0.mlp.down_proj.weight_scale"].shape == (128, 1)
    assert packed["model.layers.0.mlp.gate_proj.weight_scale"].shape == (320, 1)


def test_the_first_event_names_what_was_taken(run, trained_model, chat_rows) -> None:
    assert run.events[0]["data"] == {"model": str(trained_model), "calibration_rows": str(chat_rows)}


def test_stale_weights_are_gone_and_other_files_stay(run) -> None:
    assert not (run.folder / "model-00001-of-00002.safetensors").exists()
    assert (run.folder / "notes.txt").read_text() == "the user's own"
    assert not list(run.folder.parent.glob(".quantized*"))


def test_evaluating_the_folder_gives_the_loss_that_the_step_measured(run, chat_rows) -> None:
    measured = evaluate_loss(run.folder, chat_rows, build_config(run.values))
    assert measured.loss == pytest.approx(run.result.facts["loss_after"], abs=1e-4)
    assert measured.num_tokens == run.result.facts["num_verification_tokens"]


def test_a_model_that_is_quantized_already_is_refused(run, tmp_path) -> None:
    values = run.values | {"model_name_or_path": str(run.folder), "quantized_model_path": str(tmp_path / "again")}
    with pytest.raises(QuantizationError, match="quantized already"):
        quantize(build_config(values), context=make_context(tmp_path))
    assert not (tmp_path / "again").exists()


def test_a_model_that_gives_no_finite_loss_is_refused_before_the_work(make_config, tmp_path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_config().model_name_or_path)
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "unsound")
    config = make_config(
        model_name_or_path=str(tmp_path / "unsound"), tokenizer_name_or_path=make_config().model_name_or_path
    )
    with pytest.raises(QuantizationError, match="a loss of nan before it is quantized") as caught:
        quantize(config, context=make_context(tmp_path))
    assert caught.value.param == "model_name_or_path"


def test_without_rows_the_ways_to_give_some_are_named(make_config, tmp_path) -> None:
    config = make_config(train_local_path_to_data=str(tmp_path / "missing.jsonl"))
    with pytest.raises(StepInputError, match="quantization_dataset_id"):
        quantize(config, context=make_context(tmp_path))


@pytest.mark.parametrize(
    ("folders", "given", "in_job", "expected"),
    [
        pytest.param(["fused", "outputs"], "other", True, "fused", id="this job's fused model first"),
        pytest.param(["outputs"], "other", True, "outputs", id="then what this job trained"),
        pytest.param([], "other", True, "other", id="then another job's"),
        pytest.param([], None, True, "base", id="then the Config's"),
        pytest.param(["fused", "outputs"], None, False, "fused", id="a script's fused folder"),
        pytest.param(["outputs"], None, False, "base", id="a script's outputs may be of another run"),
    ],
)
def test_the_first_source_that_applies_is_quantized(tmp_path, folders, given, in_job, expected) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"")
    config = build_config(
        {
            "model_name_or_path": str(tmp_path / "base"),
            "fused_model_local_path": str(tmp_path / "fused"),
            "output_dir": str(tmp_path / "outputs"),
        }
    )
    inputs = StepInputs(model=str(tmp_path / given) if given else None)
    assert find_model_source(config, inputs, in_job=in_job) == str(tmp_path / expected)
