"""Adapters on every family of models: what `all` means there, and that fusing gives what was trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.tiny_models import build_tiny_model
from tests.unit.trainer_core.train.conftest import get_logits, make_dataset
from trainer_core.checkpoints import mark_complete
from trainer_core.config import Config
from trainer_core.errors import ConfigError
from trainer_core.models.lora import attach_lora, build_lora_config
from trainer_core.steps.fuse import fuse
from trainer_core.steps.train import train

MakeConfig = Callable[..., Config]
GATED = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
FUSED_ATTENTION = ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
OPTIONS: dict[str, object] = {"apply_lora": True, "lora_rank": 4, "max_steps": 2, "learning_rate": 5e-2}

FAMILIES = [
    ("llama", {}, GATED),
    ("llama", {"tie_word_embeddings": True}, GATED),
    ("mistral", {}, GATED),
    ("qwen2", {"tie_word_embeddings": True}, GATED),
    ("qwen3", {}, GATED),
    ("gpt2", {}, ["c_attn", "c_fc", "c_proj"]),
    ("gpt_neox", {}, FUSED_ATTENTION),
    ("gpt_neox", {"tie_word_embeddings": True}, FUSED_ATTENTION),
    ("falcon", {}, FUSED_ATTENTION),
    ("falcon", {"tie_word_embeddings": False}, FUSED_ATTENTION),
    ("opt", {}, ["fc1", "fc2", "k_proj", "out_proj", "q_proj", "v_proj"]),
    ("phi", {}, ["dense", "fc1", "fc2", "k_proj", "q_proj", "v_proj"]),
    ("mixtral", {}, ["k_proj", "o_proj", "q_proj", "v_proj"]),
]


def load(folder: Path | str) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    return model


def measure_distance(model: Any, other: Any) -> float:
    return float((get_logits(model) - get_logits(other)).abs().max())


def check_fused(config: Config) -> None:
    """The fused model is base and adapter, whole, and no longer the base alone."""
    fuse(config)
    fused, info = AutoModelForCausalLM.from_pretrained(config.resolved_fused_path, output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"]
    with_adapter = PeftModel.from_pretrained(load(config.model_name_or_path), config.output_dir)
    assert measure_distance(fused, with_adapter) < 1e-4
    assert measure_distance(fused, load(config.model_name_or_path)) > 0.01


@pytest.mark.parametrize(("family", "overrides", "targets"), FAMILIES, ids=lambda each: str(each)[:30])
def test_all_means_every_linear_layer_but_the_head_and_fuses_to_what_was_trained(
    make_config: MakeConfig, tmp_path: Path, family: str, overrides: dict[str, object], targets: list[str]
) -> None:
    folder = build_tiny_model(tmp_path / "base", family=family, **overrides)
    config = make_config(**OPTIONS, model_name_or_path=str(folder))
    experiment = train(config, make_dataset(4))
    assert sorted(experiment.lora_config.target_modules) == targets  # type: ignore[union-attr, arg-type]
    trained = [name for name, each in experiment.model.named_parameters() if each.requires_grad]  # type: ignore[union-attr]
    base: Any = experiment.model.get_base_model()  # type: ignore[union-attr, operator]
    untouched = (base.get_output_embeddings(), base.get_input_embeddings())
    assert trained
    assert not [each for module in untouched for each in module.parameters() if each.requires_grad]
    assert all("lora_" in name for name in trained)
    check_fused(config)


NAMED = [
    ("mistral", ["q_proj", "layers.1.mlp.down_proj"], 3),
    ("gpt_neox", "query_key_value, dense", 4),
    ("falcon", r"re:.*h\.0\..*", 4),
    ("gpt2", r"re:.*\.c_(attn|proj)", 6),
    ("opt", "re:.*fc[12]", 4),
    ("phi", ["lm_head", "fc1"], 3),
]


@pytest.mark.parametrize(("family", "raw", "num_layers"), NAMED, ids=lambda each: str(each)[:30])
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_layers_are_named_by_a_list_a_comma_string_or_a_pattern(
    make_config: MakeConfig, tmp_path: Path, family: str, raw: str | list[str], num_layers: int
) -> None:
    folder = build_tiny_model(tmp_path / "base", family=family)
    config = make_config(**OPTIONS, model_name_or_path=str(folder), raw_lora_target_modules=raw)
    base = load(folder)
    model = attach_lora(base, lora_config=build_lora_config(base, config=config), config=config)
    layers = {name.rsplit(".lora_", 1)[0] for name, each in model.named_parameters() if each.requires_grad}
    assert len(layers) == num_layers
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(0.05 if "lora_B" in name else 0.0)
    model.save_pretrained(config.output_dir)
    mark_complete(Path(config.output_dir))
    check_fused(config)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe"])
def test_experts_get_adapters_as_parameters(make_config: MakeConfig, tmp_path: Path, family: str) -> None:
    folder = build_tiny_model(tmp_path / "base", family=family)
    values = OPTIONS | {"lora_target_parameters": EXPERTS, "lora_dropout": 0.0, "use_rslora": True}
    config = make_config(**values, model_name_or_path=str(folder))
    model: Any = train(config, make_dataset(4)).model
    assert [n for n, each in model.named_parameters() if "experts" in n and each.requires_grad and each.abs().sum() > 0]
    check_fused(config)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        (
            {"raw_lora_target_modules": "re:.*nothing.*"},
            r"no layer 're:.*It has c_attn, c_fc, c_proj, lm_head, wpe, wte",
        ),
        ({"raw_lora_target_modules": "q_proj"}, r"'q_proj'.* It has c_attn"),
        ({"modules_to_save": "lm_hed"}, r"did you mean 'lm_head'"),
        ({"modules_to_save": "attn_dropout"}, "has no weights"),
        ({"modules_to_save": "c_fc", "raw_lora_target_modules": "c_fc"}, "leave it out of one"),
        ({"lora_target_parameters": "c_fc.weight", "lora_dropout": 0.0}, "outside of its linear layers; it has none"),
    ],
    ids=["pattern", "name", "module", "no-weights", "both", "parameter"],
)
def test_what_names_nothing_is_told_with_the_names_that_exist(
    make_config: MakeConfig, tmp_path: Path, values: dict[str, Any], match: str
) -> None:
    base = load(build_tiny_model(tmp_path / "base", family="gpt2"))
    with pytest.raises(ConfigError, match=match) as raised:
        build_lora_config(base, config=make_config(apply_lora=True, **values))
    assert raised.value.param in values


def test_a_short_name_to_save_does_not_take_what_merely_ends_like_it(make_config: MakeConfig, tmp_path: Path) -> None:
    base = load(build_tiny_model(tmp_path / "base", family="llama"))
    config = make_config(apply_lora=True, modules_to_save="norm, layers.1.mlp")
    model = attach_lora(base, lora_config=build_lora_config(base, config=config), config=config)
    whole = {name for name, each in model.named_parameters() if each.requires_grad and "lora_" not in name}
    prefix = "base_model.model.model."
    assert {name.removeprefix(prefix).split(".modules_to_save")[0] for name in whole} == {"norm", "layers.1.mlp"}
    with_adapter = {name for name, each in model.named_parameters() if "lora_" in name}
    assert not [name for name in with_adapter if "layers.1.mlp" in name]
    assert [name for name in with_adapter if "layers.0.mlp" in name]
