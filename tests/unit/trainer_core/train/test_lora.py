"""Which layers get an adapter, and what stabilizing casts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.support.tiny_models import build_tiny_gpt2, build_tiny_llama
from tests.unit.trainer_core.train.conftest import make_dataset
from trainer_core.config import Config
from trainer_core.errors import ConfigError, ModelLoadError
from trainer_core.models.loading import load_model
from trainer_core.models.lora import attach_lora, build_lora_config, find_lora_targets
from trainer_core.models.stabilize import stabilize, upcast_trainable_parameters
from trainer_core.steps.train import train

MakeConfig = Callable[..., Config]
LLAMA_LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_llama)


@pytest.fixture(scope="module")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_gpt2(tmp_path_factory.mktemp("gpt2"))


@pytest.mark.parametrize(
    ("raw", "targets"),
    [
        ("all", LLAMA_LINEAR),
        (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        ("q_proj, v_proj", ["q_proj", "v_proj"]),
        ("lm_head", ["lm_head"]),
        (r"re:.*layers\.0\..*q_proj", r".*layers\.0\..*q_proj"),
    ],
)
def test_targets_are_all_linear_layers_a_list_a_comma_string_or_a_pattern(
    llama: PreTrainedModel, make_config: MakeConfig, raw: str | list[str], targets: list[str] | str
) -> None:
    wanted = make_config(apply_lora=True, raw_lora_target_modules=raw).lora_target_modules
    assert find_lora_targets(llama, wanted=wanted) == targets


def test_gpt2_gets_adapters_on_its_conv1d_layers_and_none_on_its_tied_head(
    gpt2_folder: Path, make_config: MakeConfig, recwarn: pytest.WarningsRecorder
) -> None:
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder)
    lora_config = build_lora_config(model, config=make_config(apply_lora=True))
    assert sorted(lora_config.target_modules) == ["c_attn", "c_fc", "c_proj"]
    peft_model = attach_lora(model, lora_config=lora_config, config=make_config(apply_lora=True))
    names = [name for name, parameter in peft_model.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name and ".h." in name for name in names)


@pytest.mark.parametrize(("raw", "match"), [("q_pro", "'q_proj'"), ("re:nothing", "up_proj")])
def test_an_unknown_target_names_what_exists(
    llama: PreTrainedModel, make_config: MakeConfig, raw: str, match: str
) -> None:
    config = make_config(apply_lora=True, raw_lora_target_modules=raw)
    with pytest.raises(ConfigError, match=match) as raised:
        find_lora_targets(llama, wanted=config.lora_target_modules)
    assert raised.value.param == "raw_lora_target_modules"


def make_bf16_adapter(folder: Path, config: Config) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    model.lm_head.to(torch.float32)
    return attach_lora(model, lora_config=build_lora_config(model, config=config), config=config)


@pytest.mark.parametrize(("norm_fp32", "norm_dtype"), [(None, torch.float32), (False, torch.bfloat16)])
def test_stabilize_casts_both_lora_matrices_norms_and_head(
    tiny_llama: Path, make_config: MakeConfig, norm_fp32: bool | None, norm_dtype: torch.dtype
) -> None:
    config = make_config(apply_lora=True, norm_fp32=norm_fp32)
    model = make_bf16_adapter(tiny_llama, config)
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
    stabilize(model, config=config, has_bf16=True)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if "lora_A" in name} == {torch.bfloat16}
    assert {dtype for name, dtype in dtypes.items() if "lora_B" in name} == {torch.bfloat16}
    assert {dtype for name, dtype in dtypes.items() if "norm" in name} == {norm_dtype}
    assert {dtype for name, dtype in dtypes.items() if "lm_head" in name} == {torch.bfloat16}


def test_without_bf16_stabilize_casts_norms_only(tiny_llama: Path, make_config: MakeConfig) -> None:
    config = make_config(apply_lora=True)
    model = make_bf16_adapter(tiny_llama, config)
    stabilize(model, config=config, has_bf16=False)
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert {dtype for name, dtype in dtypes.items() if "lora_" in name or "lm_head" in name} == {torch.float32}
    assert {dtype for name, dtype in dtypes.items() if "norm" in name} == {torch.float32}


def test_fp16_parameters_that_are_trained_become_fp32(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float16)
    model.lm_head.requires_grad_(False)
    assert upcast_trainable_parameters(model) > 0
    assert model.lm_head.weight.dtype == torch.float16
    assert model.model.norm.weight.dtype == torch.float32


def test_a_model_that_lacks_weights_is_refused(tmp_path: Path, make_config: MakeConfig) -> None:
    from safetensors.torch import load_file, save_file

    folder = build_tiny_llama(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match=r"lm_head\.weight"):
        load_model(make_config(model_name_or_path=str(folder)))


def test_a_model_that_does_not_exist_is_told_by_its_option(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="nowhere") as raised:
        load_model(make_config(model_name_or_path=str(tmp_path / "nowhere")))
    assert raised.value.param == "model_name_or_path"


@pytest.mark.parametrize("key", ["load_in_4bit", "load_in_8bit"])
def test_an_adapter_is_trained_on_a_quantized_base_on_the_cpu(make_config: MakeConfig, key: str) -> None:
    config = make_config(
        **{key: True},
        apply_lora=True,
        max_steps=12,
        learning_rate=1e-2,
        lora_dropout=0.0,
        use_gradient_checkpointing=True,
    )
    experiment = train(config, make_dataset(2))
    losses = [record["loss"] for record in experiment.trainer.state.log_history if "loss" in record]  # type: ignore[union-attr]
    assert losses[-1] < losses[0] - 0.2
    base = experiment.model.get_base_model()  # type: ignore[union-attr, operator]
    assert type(base.model.layers[0].mlp.up_proj.base_layer).__name__ == (
        "Linear4bit" if key == "load_in_4bit" else "Linear8bitLt"
    )
