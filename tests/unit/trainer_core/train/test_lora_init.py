"""Adapters that begin otherwise than at zero, or that are more than two matrices a layer."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.support.tiny_models import build_tiny_model
from tests.unit.trainer_core.train.conftest import get_logits, get_losses, make_dataset
from trainer_core.config import Config
from trainer_core.errors import ConfigError
from trainer_core.experiments import Experiment
from trainer_core.models.decomposition import Decomposition
from trainer_core.models.lora import attach_lora, build_lora_config
from trainer_core.models.rounding import round_weight
from trainer_core.steps.fuse import fuse
from trainer_core.steps.train import train

MakeConfig = Callable[..., Config]
OPTIONS: dict[str, object] = {
    "apply_lora": True,
    "lora_rank": 4,
    "lora_dropout": 0.0,
    "max_steps": 4,
    "learning_rate": 1e-2,
}


def load_base(config: Config) -> Any:
    return AutoModelForCausalLM.from_pretrained(config.model_name_or_path)


def measure_distance(model: Any, other: Any) -> float:
    return float((get_logits(model) - get_logits(other)).abs().max())


@pytest.mark.parametrize(
    "values",
    [
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_4", "use_dora": True},
        {"init_lora_weights": "pissa", "use_rslora": True},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "olora", "raw_lora_target_modules": ["lm_head", "q_proj"]},
        {"init_lora_weights": "orthogonal"},
        {"init_lora_weights": "gaussian"},
        {"use_dora": True},
        {"use_rslora": True},
        {"modules_to_save": ["lm_head", "norm"]},
        {"modules_to_save": ["embed_tokens"], "init_lora_weights": "pissa"},
    ],
    ids=lambda values: "-".join(f"{key}={value}" for key, value in values.items()),
)
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_the_trained_model_its_adapter_on_the_original_base_and_the_fused_model_are_one(
    make_config: MakeConfig, values: dict[str, object]
) -> None:
    config = make_config(**(OPTIONS | values))
    trained = train(config, make_dataset(8)).model
    with_adapter = PeftModel.from_pretrained(load_base(config), config.output_dir)
    assert measure_distance(trained, with_adapter) < 1e-4
    fuse(config)
    fused, info = AutoModelForCausalLM.from_pretrained(config.resolved_fused_path, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    assert measure_distance(fused, with_adapter) < 1e-4
    assert measure_distance(fused, load_base(config)) > 0.01


@pytest.mark.parametrize("init", ["pissa_niter_2", "olora", "loftq"])
def test_a_resumed_training_goes_on_with_the_initial_matrices_of_its_checkpoint(
    make_config: MakeConfig, tmp_path: Path, init: str
) -> None:
    values = OPTIONS | {"init_lora_weights": init, "save_steps": 2, "save_total_limit": 0, "lora_dropout": 0.1}
    config = make_config(**values)
    straight = train(config, make_dataset(8))
    shutil.copytree(Path(config.output_dir) / "checkpoint-2", tmp_path / "resumed" / "checkpoint-2")
    # Another seed for what is not read from the checkpoint: matrices drawn anew would differ.
    again = make_config(**values, output_dir=str(tmp_path / "resumed"), resume_from_checkpoint=True)
    torch.manual_seed(1)
    resumed = train(again, make_dataset(8))
    assert get_losses(resumed) == pytest.approx(get_losses(straight), abs=1e-5)
    assert len(get_losses(resumed)) == 4
    assert measure_distance(resumed.model, straight.model) < 1e-5
    settings = json.loads((tmp_path / "resumed" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["init_lora_weights"]) == (8, 64, True)
    saved = PeftModel.from_pretrained(load_base(config), tmp_path / "resumed" / "checkpoint-4")
    final = PeftModel.from_pretrained(load_base(config), config.output_dir)
    assert measure_distance(saved, final) < 1e-5


def test_a_checkpoint_of_another_rank_is_not_gone_on_from(make_config: MakeConfig) -> None:
    values = OPTIONS | {"init_lora_weights": "olora", "max_steps": 1}
    train(make_config(**values), make_dataset(2))
    with pytest.raises(ConfigError, match="rank 4"):
        train(make_config(**values | {"lora_rank": 6}, resume_from_checkpoint=True), make_dataset(2))


@pytest.mark.parametrize("method", ["pissa", "pissa_niter_3", "olora"])
def test_initial_matrices_and_what_is_left_make_up_the_weight(method: str) -> None:
    weight_OI = torch.randn(48, 80, generator=torch.Generator().manual_seed(0))
    pair, residual_OI = Decomposition(method, rank=8, scaling=2.0).split(weight_OI, name="layer")
    torch.testing.assert_close(residual_OI + 2.0 * pair.b_OR @ pair.a_RI, weight_OI, atol=1e-5, rtol=0)
    if method == "olora":
        torch.testing.assert_close(pair.b_OR.T @ pair.b_OR, torch.eye(8), atol=1e-5, rtol=0)
    else:
        smallest = torch.linalg.svd(weight_OI).S[8:].norm()
        assert residual_OI.norm() == pytest.approx(float(smallest), rel=1e-4 if method == "pissa" else 0.02)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_loftq_makes_up_for_a_part_of_the_rounding_error_and_more_in_more_rounds(bits: int) -> None:
    weight_OI = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    rounded_OI = round_weight(weight_OI, bits=bits)
    assert len(rounded_OI[0, :64].unique()) <= 2**bits
    errors = [float((weight_OI - rounded_OI).norm())]
    for num_rounds in (1, 5):
        split = Decomposition("loftq", rank=16, scaling=4.0, loftq_bits=bits, loftq_iter=num_rounds)
        pair, left_OI = split.split(weight_OI, name="layer")
        errors.append(float((weight_OI - left_OI - 4.0 * pair.b_OR @ pair.a_RI).norm()))
    assert errors[0] > errors[1] > errors[2] > 0


def test_rounding_to_few_bits_keeps_odd_shapes_and_rows_of_zeros() -> None:
    weight_OI = torch.randn(3, 7)
    weight_OI[1] = 0
    for bits in (2, 4, 8):
        rounded_OI = round_weight(weight_OI, bits=bits)
        assert rounded_OI.shape == weight_OI.shape
        assert torch.isfinite(rounded_OI).all()
        assert (rounded_OI[1] == 0).all()


@pytest.mark.parametrize("bits", [2, 8])
def test_loftq_trains_a_rounded_base_and_saves_an_adapter_of_the_whole_one(make_config: MakeConfig, bits: int) -> None:
    config = make_config(**OPTIONS, init_lora_weights="loftq", loftq_bits=bits, loftq_iter=2, fuse_after_training=True)
    experiment = Experiment(config, train_dataset=make_dataset(8))
    experiment.build()
    weight = experiment.model.get_base_model().model.layers[0].mlp.up_proj.base_layer.weight  # type: ignore[union-attr, operator]
    assert len(weight[0, :64].unique()) <= 2**bits
    before = measure_distance(experiment.model, load_base(config))
    experiment.run()
    with_adapter = PeftModel.from_pretrained(load_base(config), config.output_dir)
    fused = AutoModelForCausalLM.from_pretrained(config.resolved_fused_path)
    assert measure_distance(fused, with_adapter) < 1e-4
    # What is trained differs from what is saved by what the adapter could not make up for.
    assert 0 < before < {2: 1.0, 8: 0.02}[bits]
    assert measure_distance(fused, load_base(config)) > 0.01


def test_an_adapter_trained_in_bf16_is_taken_out_of_the_base_exactly(tiny_llama: Path, make_config: MakeConfig) -> None:
    from trainer_core.models.decomposed_model import attach_decomposed

    config = make_config(**OPTIONS, init_lora_weights="pissa")
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    lora_config = build_lora_config(base, config=config)
    model = attach_decomposed(base, lora_config=lora_config, adapter_dtype=torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            assert torch.equal(parameter, parameter.to(torch.bfloat16).float())
    assert measure_distance(model, load_base(config)) < 1e-5


def test_orthogonal_matrices_are_not_zero_and_their_product_is(tiny_llama: Path, make_config: MakeConfig) -> None:
    config = make_config(**OPTIONS, init_lora_weights="orthogonal")
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    model = attach_lora(base, lora_config=build_lora_config(base, config=config), config=config)
    layer: Any = model.get_base_model().model.layers[1].mlp.down_proj  # type: ignore[operator, union-attr]
    assert layer.lora_A["default"].weight.abs().max() > 0.01
    assert layer.lora_B["default"].weight.abs().max() > 0.01
    assert layer.get_delta_weight("default").abs().max() < 1e-5


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"lora_rank": 200}, "at most 64 directions"),
        ({"raw_lora_target_modules": ["embed_tokens"]}, "is a Embedding"),
        ({"raw_lora_target_modules": ["lm_head"], "model": {"tie_word_embeddings": True}}, "shares its weight"),
    ],
    ids=["rank", "embedding", "tied-head"],
)
@pytest.mark.filterwarnings("ignore:.*tied.*")
def test_layers_that_cannot_be_decomposed_are_told(
    make_config: MakeConfig, tmp_path: Path, values: dict[str, Any], match: str
) -> None:
    folder = build_tiny_model(tmp_path / "base", family="llama", **values.pop("model", {}))
    config = make_config(**(OPTIONS | values), init_lora_weights="pissa", model_name_or_path=str(folder))
    base = load_base(config)
    with pytest.raises(ConfigError, match=match):
        attach_lora(base, lora_config=build_lora_config(base, config=config), config=config)
