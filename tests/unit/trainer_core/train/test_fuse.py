"""The fused model is the base with its adapter on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.tiny_models import build_tiny_gpt2, build_tiny_llama, build_tiny_model
from tests.unit.trainer_core.train.conftest import RecordedEvents, get_logits, make_dataset
from trainer_core.checkpoints import mark_complete
from trainer_core.config import Config
from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.errors import ConfigError, FuseError, ModelLoadError, StepInputError
from trainer_core.job_spec import StepInputs
from trainer_core.models.lora import attach_lora, build_lora_config
from trainer_core.steps.fuse import find_adapter, fuse
from trainer_core.steps.train import train

MakeConfig = Callable[..., Config]


def train_adapter(config: Config) -> None:
    train(config, make_dataset(8))


def with_adapter(config: Config) -> Any:
    base = AutoModelForCausalLM.from_pretrained(config.model_name_or_path)
    return PeftModel.from_pretrained(base, config.output_dir)


def build_tied_llama(folder: Path) -> Path:
    return build_tiny_llama(folder, tie_word_embeddings=True)


@pytest.mark.parametrize(
    ("build_model", "targets"),
    [
        (build_tiny_llama, "all"),
        (build_tied_llama, "all"),
        (build_tied_llama, ["lm_head", "q_proj"]),
        (build_tiny_gpt2, "all"),
    ],
    ids=["llama", "tied", "tied-adapter-on-head", "gpt2"],
)
@pytest.mark.filterwarnings("ignore:.*tied.*", "ignore:Setting `save_embedding_layers`")
def test_fused_logits_equal_those_with_the_adapter_on(
    make_config: MakeConfig, tmp_path: Path, build_model: Callable[[Path], Path], targets: str | list[str]
) -> None:
    config = make_config(
        model_name_or_path=str(build_model(tmp_path / "base")),
        apply_lora=True,
        raw_lora_target_modules=targets,
        max_steps=4,
        learning_rate=2e-2,
    )
    train_adapter(config)
    result = fuse(config)
    fused, info = AutoModelForCausalLM.from_pretrained(config.resolved_fused_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(get_logits(fused), get_logits(with_adapter(config)), atol=1e-4, rtol=0)
    base = AutoModelForCausalLM.from_pretrained(config.model_name_or_path)
    assert (get_logits(fused) - get_logits(base)).abs().max() > 0.01
    assert result.artifacts[0].name == "fused"
    assert {"model.safetensors", "config.json", "generation_config.json", "chat_template.jinja"} <= set(
        result.artifacts[0].files
    )
    assert AutoTokenizer.from_pretrained(config.resolved_fused_path).chat_template


def test_a_qlora_adapter_is_fused_into_the_unquantized_base(make_config: MakeConfig) -> None:
    config = make_config(apply_lora=True, load_in_4bit=True, fuse_after_training=True, max_steps=4, learning_rate=2e-2)
    train_adapter(config)
    fused = AutoModelForCausalLM.from_pretrained(config.resolved_fused_path)
    assert not getattr(fused.config, "quantization_config", None)
    torch.testing.assert_close(get_logits(fused), get_logits(with_adapter(config)), atol=1e-4, rtol=0)
    fuse(config)
    again = AutoModelForCausalLM.from_pretrained(config.resolved_fused_path)
    torch.testing.assert_close(get_logits(again), get_logits(fused), atol=1e-5, rtol=0)


def test_fusing_in_memory_after_a_training_equals_the_step(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(apply_lora=True, fuse_after_training=True, max_steps=3, learning_rate=2e-2)
    train_adapter(config)
    in_memory = load_file(tmp_path / "outputs" / "fused" / "model.safetensors")
    fuse(config)
    for name, weight in load_file(tmp_path / "outputs" / "fused" / "model.safetensors").items():
        torch.testing.assert_close(in_memory[name], weight, atol=1e-6, rtol=0)


def test_weights_are_cut_into_files_of_max_shard_size(make_config: MakeConfig) -> None:
    config = make_config(apply_lora=True, max_steps=1, max_shard_size="500 KB")
    train_adapter(config)
    fuse(config)
    shards = list(Path(config.resolved_fused_path).glob("model-*.safetensors"))
    assert len(shards) > 2
    assert max(shard.stat().st_size for shard in shards) < 600_000


@pytest.fixture(scope="module")
def trained(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter's folder."""
    from trainer_core.config import build_config

    output_dir = tmp_path_factory.mktemp("trained")
    values = {"model_name_or_path": str(tiny_llama), "output_dir": str(output_dir), "optim": "adamw_torch"}
    limits = {"apply_lora": True, "max_steps": 2, "warmup_steps": 0, "max_length": 48}
    train(build_config(values | limits), make_dataset(4))
    return output_dir


def damage(trained: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text((trained / "adapter_config.json").read_text())
    save_file(change(load_file(trained / "adapter_model.safetensors")), folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda weights: {}, "empty"),
        (lambda weights: {name: weight[:0] for name, weight in weights.items()}, "empty .*has no values"),
        (lambda weights: {name: weight / 0 for name, weight in weights.items()}, "not finite"),
        (
            lambda weights: {n: w[:4] if "lora_A" in n else w[:, :4].contiguous() for n, w in weights.items()},
            "says rank 8, .* has 4",
        ),
        (lambda weights: {name: weight * float("nan") for name, weight in weights.items()}, "not finite"),
        (lambda weights: dict(list(weights.items())[2:]), "does not fit"),
        (lambda weights: {n: w.repeat(*((1, 2) if "A" in n else (2, 1))) for n, w in weights.items()}, "does not fit"),
    ],
    ids=[
        "empty",
        "tensors without values",
        "infinite",
        "rank",
        "nan",
        "a layer without weights",
        "another base's shapes",
    ],
)
@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
def test_a_damaged_adapter_is_refused(
    make_config: MakeConfig, trained: Path, tmp_path: Path, change: Any, match: str
) -> None:
    folder = damage(trained, tmp_path / "damaged", change)
    with pytest.raises(FuseError, match=match):
        fuse(make_config(lora_model_local_path=str(folder)))


@pytest.mark.parametrize("param", ["lora_model_local_path", "lora_hub_model_id"])
def test_a_damaged_adapter_is_told_of_the_option_that_named_it(
    make_config: MakeConfig, trained: Path, tmp_path: Path, param: str
) -> None:
    folder = damage(trained, tmp_path / "damaged", lambda weights: {})
    with pytest.raises(FuseError) as caught:
        fuse(make_config(**{param: str(folder)}))
    assert caught.value.param == param


def test_in_a_job_a_damaged_adapter_from_a_hub_is_told_of_its_repository_option(
    make_config: MakeConfig, trained: Path, tmp_path: Path, events: RecordedEvents
) -> None:
    folder = damage(trained, tmp_path / "damaged", lambda weights: {})
    config = make_config(lora_model_local_path=str(folder), lora_hub_model_id="me/adapter")
    with pytest.raises(FuseError) as caught:
        fuse(config, context=StepContext(Step.FUSE, events, StepInputs()))
    assert caught.value.param == "lora_hub_model_id"


def test_an_adapter_of_another_kind_of_model_is_refused(make_config: MakeConfig, trained: Path, tmp_path: Path) -> None:
    base = build_tiny_gpt2(tmp_path / "gpt2")
    with pytest.raises(FuseError, match=r"does not fit .* give the base it was trained on as model_name_or_path"):
        fuse(make_config(model_name_or_path=str(base), lora_model_local_path=str(trained)))


def test_an_untrained_adapter_is_fused_with_a_warning(
    make_config: MakeConfig, trained: Path, tmp_path: Path, context: StepContext, events: RecordedEvents
) -> None:
    folder = damage(
        trained, tmp_path / "zero", lambda weights: {n: w * (0 if "lora_B" in n else 1) for n, w in weights.items()}
    )
    fuse(make_config(lora_model_local_path=str(folder)), context=context)
    assert "equals its base" in events.messages("warning")


def test_the_adapter_comes_from_the_job_then_the_config_then_the_newest_whole_one(
    make_config: MakeConfig, trained: Path, tmp_path: Path, events: RecordedEvents
) -> None:
    def used(config: Config, adapter: Path | None, in_job: bool = False) -> str:
        inputs = StepInputs(adapter=str(adapter) if adapter else None)
        return str(find_adapter(config, context=StepContext(Step.FUSE, events, inputs), in_job=in_job))

    copy = damage(trained, tmp_path / "copy", dict)
    newest = damage(trained, tmp_path / "outputs", dict)
    half_written = damage(trained, tmp_path / "outputs" / "checkpoint-9", dict)
    mark_complete(newest, with_subfolders=False)
    assert used(make_config(lora_model_local_path=str(copy)), trained) == str(trained)
    assert used(make_config(lora_model_local_path=str(copy)), None) == str(copy)
    assert used(make_config(lora_hub_model_id=str(copy)), None) == str(copy)
    assert used(make_config(), None) == str(newest)
    mark_complete(half_written)
    assert used(make_config(), None) == str(half_written)
    (newest / "COMPLETE").unlink()
    assert used(make_config(), None, in_job=True) == str(newest)


def test_without_an_adapter_the_ways_to_give_one_are_named(make_config: MakeConfig) -> None:
    with pytest.raises(StepInputError, match="lora_model_local_path or lora_hub_model_id"):
        fuse(make_config())


def test_an_adapter_folder_without_an_adapter_is_told(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"adapter_config\.json"):
        fuse(make_config(lora_model_local_path=str(tmp_path)))


def test_a_quantized_base_is_refused_for_a_given_adapter(make_config: MakeConfig, trained: Path) -> None:
    with pytest.raises(ConfigError, match="16-bit"):
        fuse(make_config(lora_model_local_path=str(trained), load_in_4bit=True, apply_lora=True))


def test_a_16_bit_base_stays_in_its_own_format_on_the_cpu(
    make_config: MakeConfig, tmp_path: Path, trained: Path
) -> None:
    folder = build_tiny_llama(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    fuse(make_config(model_name_or_path=str(folder), lora_model_local_path=str(trained)))
    settings = json.loads((tmp_path / "outputs" / "fused" / "config.json").read_text())
    assert settings["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("{", ModelLoadError, "cannot be read"),
        ("[1]", ModelLoadError, "does not hold an adapter's settings"),
        ('{"r": "eight", "peft_type": "LORA"}', ModelLoadError, "does not hold an adapter's settings"),
        ('{"peft_type": "PROMPT_TUNING"}', FuseError, "only LoRA adapters are fused"),
        ("{}", FuseError, "type None"),
    ],
)
def test_settings_of_an_adapter_that_cannot_be_read_are_told_before_the_base_is_loaded(
    make_config: MakeConfig, trained: Path, tmp_path: Path, text: str, error: type[Exception], match: str
) -> None:
    folder = damage(trained, tmp_path / "damaged", dict)
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(error, match=match):
        fuse(make_config(model_name_or_path="/does/not/exist", lora_model_local_path=str(folder)))


def test_an_adapter_file_that_is_cut_off_is_told(make_config: MakeConfig, trained: Path, tmp_path: Path) -> None:
    folder = damage(trained, tmp_path / "damaged", dict)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelLoadError, match="cannot be read"):
        fuse(make_config(lora_model_local_path=str(folder)))


@pytest.mark.parametrize(("named", "is_told"), [("owner/other", True), ("owner/base", False), ("/a/folder", False)])
def test_an_adapter_that_names_another_base_is_fused_with_a_warning(
    make_config: MakeConfig,
    trained: Path,
    tmp_path: Path,
    context: StepContext,
    events: RecordedEvents,
    named: str,
    is_told: bool,
) -> None:
    folder = damage(trained, tmp_path / "copy", dict)
    settings = json.loads((folder / "adapter_config.json").read_text()) | {"base_model_name_or_path": named}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    base = build_tiny_llama(tmp_path / "base")
    fuse(make_config(lora_model_local_path=str(folder), model_name_or_path=str(base)), context=context)
    assert ("trained on 'owner/other'" in events.messages("warning")) is is_told


def test_a_base_in_several_files_is_fused(make_config: MakeConfig, trained: Path, tmp_path: Path) -> None:
    base = build_tiny_llama(tmp_path / "base")
    whole = AutoModelForCausalLM.from_pretrained(base)
    (base / "model.safetensors").unlink()
    whole.save_pretrained(base, max_shard_size="300KB")
    assert len(list(base.glob("model-*.safetensors"))) > 2
    config = make_config(model_name_or_path=str(base), lora_model_local_path=str(trained))
    fuse(config)
    fused = AutoModelForCausalLM.from_pretrained(config.resolved_fused_path)
    with_adapter = PeftModel.from_pretrained(whole, trained)
    torch.testing.assert_close(get_logits(fused), get_logits(with_adapter), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("family", "module"), [("llama", "embed_tokens"), ("llama", "lm_head"), ("gpt2", "wte"), ("opt", "lm_head")]
)
@pytest.mark.parametrize("max_shard_size", ["10GB", "100KB"])
def test_a_tied_head_that_was_trained_whole_stays_tied(
    make_config: MakeConfig, tmp_path: Path, family: str, module: str, max_shard_size: str
) -> None:
    folder = build_tiny_model(tmp_path / "base", family=family, tie_word_embeddings=True)
    base = AutoModelForCausalLM.from_pretrained(folder)
    config = make_config(
        model_name_or_path=str(folder), apply_lora=True, modules_to_save=module, max_shard_size=max_shard_size
    )
    model: Any = attach_lora(base, lora_config=build_lora_config(base, config=config), config=config)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            parameter.data.add_(torch.randn_like(parameter) / 10)
    model.save_pretrained(config.output_dir)
    mark_complete(Path(config.output_dir))
    fuse(config)
    fused = AutoModelForCausalLM.from_pretrained(config.resolved_fused_path)
    assert fused.config.tie_word_embeddings
    assert fused.get_output_embeddings().weight is fused.get_input_embeddings().weight
    assert (get_logits(fused) - get_logits(AutoModelForCausalLM.from_pretrained(folder))).abs().max() > 0.01
    torch.testing.assert_close(get_logits(fused), get_logits(model), atol=1e-4, rtol=0)
