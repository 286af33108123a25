"""Fusing tensor by tensor gives the model that fusing as a whole gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.support.tiny_models import build_tiny_gpt2, build_tiny_llama, build_tiny_model
from tests.unit.trainer_core.train.conftest import INPUT_IDS, RecordedEvents, get_logits
from trainer_core.config import build_config
from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.steps.fuse import fuse


def make_base(folder: Path, name: str) -> Path:
    if name == "gpt2":
        return build_tiny_gpt2(folder)
    if name.startswith("llama"):
        return build_tiny_llama(folder, tie_word_embeddings=name.endswith("tied"))
    return build_tiny_model(folder, family=name)


def make_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(**{"r": 4, "lora_alpha": 16, "task_type": "CAUSAL_LM"} | settings))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "magnitude" in name:
            parameter.data.normal_(std=0.05)
    adapted.save_pretrained(folder)
    return folder


def run(base: Path, adapter: Path, folder: Path, **options: Any) -> tuple[Path, RecordedEvents]:
    events = RecordedEvents()
    values = {
        **{"model_name_or_path": str(base), "lora_model_local_path": str(adapter)},
        **{"fused_model_local_path": str(folder), "max_shard_size": "200KB", **options},
    }
    fuse(build_config(values), context=StepContext(step=Step.FUSE, events=events))
    return folder, events


def load_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for path in folder.glob("*.safetensors") for name, value in load_file(path).items()}


ALL_LINEAR = {"target_modules": "all-linear"}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", ALL_LINEAR),
        ("llama tied", ALL_LINEAR),
        ("qwen2", {**ALL_LINEAR, "use_rslora": True}),
        ("mistral", {"target_modules": ["q_proj", "down_proj"]}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
        ("qwen3", ALL_LINEAR),
    ],
)
def test_both_ways_give_the_same_model(tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    base = make_base(tmp_path / "base", family)
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    by_shards, told = run(base, adapter, tmp_path / "shards")
    whole, _ = run(base, adapter, tmp_path / "whole", device_map="cpu")
    assert told.of_type("decision")[0]["way"] == "shards", told.all
    found, expected = load_tensors(by_shards), load_tensors(whole)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5, msg=name)
    assert json.loads((by_shards / "config.json").read_text()) == json.loads((whole / "config.json").read_text())
    assert {path.name for path in by_shards.iterdir()} >= {"tokenizer.json", "model.safetensors.index.json"}
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (by_shards, whole)]
    torch.testing.assert_close(get_logits(models[0]), get_logits(models[1]))
    assert INPUT_IDS.numel() == 10


def test_a_base_whose_files_use_other_names_is_fused_as_a_whole(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "gpt_neox")
    adapter = make_adapter(base, tmp_path / "adapter", **ALL_LINEAR)
    _, told = run(base, adapter, tmp_path / "fused")
    assert told.of_type("decision")[0]["way"] == "whole model"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({**ALL_LINEAR, "use_dora": True}, "use_dora"),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": r".*\.q_proj"}, "pattern"),
        ({"target_modules": ["q_proj"], "rank_pattern": {"q_proj": 2}}, "pattern"),
    ],
)
def test_what_is_not_plain_is_fused_as_a_whole_and_says_why(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    base = make_base(tmp_path / "base", "llama")
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    folder, told = run(base, adapter, tmp_path / "fused")
    (decision,) = told.of_type("decision")
    assert decision["way"] == "whole model"
    assert reason in decision["reason"]
    assert load_tensors(folder)


def test_sixteen_bits_are_rounded_once(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "llama")
    adapter = make_adapter(base, tmp_path / "adapter", **ALL_LINEAR)
    exact, _ = run(base, adapter, tmp_path / "exact")
    rounded, _ = run(base, adapter, tmp_path / "rounded", force_fp16=True)
    for name, tensor in load_tensors(exact).items():
        assert torch.equal(load_tensors(rounded)[name], tensor.to(torch.float16)), name


def test_a_failure_in_mid_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path / "base", "llama")
    adapter = make_adapter(base, tmp_path / "adapter", **ALL_LINEAR)
    folder, _ = run(base, adapter, tmp_path / "fused")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    # A disk that is full after some tensors.
    written: list[Path] = []

    def write(path: Path, *args: Any, **kwargs: Any) -> None:
        written.append(path)
        if len(written) > 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainer_core.models.shard_fusing.write_tensors", write)
    with pytest.raises(Exception, match="space"):
        run(base, adapter, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
