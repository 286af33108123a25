"""Fusing tensor by tensor gives the files that fusing a whole model gives."""

import errno
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.support.tiny_models import build_tiny_llama, build_tiny_model, build_tiny_tokenizer
from tests.unit.trainer_core.train.conftest import RecordedEvents, get_logits
from trainer_core.config import Config
from trainer_core.context import StepContext
from trainer_core.errors import DiskFullError, FuseError, ModelLoadError
from trainer_core.models.fusing import fuse_adapter, save_fused_model
from trainer_core.models.shard_fusing import tensor_places, writing
from trainer_core.steps.fuse import fuse

ROOT = Path(__file__).parents[4]
MakeConfig = Callable[..., Config]
IGNORED = pytest.mark.filterwarnings(
    "ignore:.*tied.*",
    "ignore:.*fan_in_fan_out.*",
    "ignore:Setting `save_embedding_layers`",
    "ignore:.*PiSSA.*",
    "ignore:.*have invalid shape",
)
ALL = "all-linear"


def build_base(folder: Path, *, family: str, dtype: torch.dtype = torch.float32, **fields: object) -> Path:
    """A tiny model in several files."""
    build_tiny_model(folder, family=family, **fields)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    return folder


def build_adapter(folder: Path, *, base: Path, **settings: Any) -> Path:
    """An adapter on the base, all of whose weights say something."""
    torch.manual_seed(3)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(**({"r": 4, "task_type": "CAUSAL_LM"} | settings)))
    for name, weight in adapted.named_parameters():
        if weight.requires_grad:
            weight.data.add_(torch.randn_like(weight) / 10)
        elif "modules_to_save" in name:
            raise AssertionError(name)
    adapted.save_pretrained(folder)
    return folder


def read_files(folder: Path) -> dict[str, bytes]:
    names = ("*.safetensors", "*.index.json", "config.json", "generation_config.json")
    return {path.name: path.read_bytes() for name in names for path in sorted(folder.glob(name))}


def get_decision(events: RecordedEvents) -> dict[str, Any]:
    return events.of_type("decision")[-1]


@pytest.mark.parametrize(
    ("family", "fields", "settings"),
    [
        pytest.param("llama", {}, {"target_modules": ALL}, id="lora"),
        pytest.param("llama", {"tie_word_embeddings": True}, {"target_modules": ALL}, id="tied-head-beside"),
        pytest.param("qwen2", {}, {"target_modules": ALL, "use_rslora": True, "lora_alpha": 3}, id="rslora"),
        pytest.param("mistral", {}, {"target_modules": ALL, "use_dora": True}, id="dora"),
        pytest.param("gpt2", {}, {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}, id="transposed"),
        pytest.param("gpt2", {}, {"target_modules": ["c_attn"], "use_dora": True}, id="transposed-dora"),
        pytest.param("llama", {}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, id="head-whole"),
        pytest.param("llama", {}, {"target_modules": ["embed_tokens", "v_proj"]}, id="embeddings"),
        pytest.param("llama", {}, {"target_modules": ["lm_head", "v_proj"], "use_dora": True}, id="head"),
        pytest.param("qwen2", {}, {"target_modules": ["q_proj", "v_proj"], "lora_bias": True}, id="bias"),
        pytest.param(
            "qwen3",
            {},
            {"target_modules": ALL, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"k_proj": 9}},
            id="patterns",
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@IGNORED
def test_the_files_equal_those_of_a_whole_models_merge(
    make_config: MakeConfig,
    tmp_path: Path,
    context: StepContext,
    events: RecordedEvents,
    family: str,
    fields: dict[str, object],
    settings: dict[str, Any],
    dtype: torch.dtype,
) -> None:
    base = build_base(tmp_path / "base", family=family, dtype=dtype, **fields)
    adapter = build_adapter(tmp_path / "adapter", base=base, **settings)
    config = make_config(model_name_or_path=str(base), lora_model_local_path=str(adapter), max_shard_size="60 KB")
    result = fuse(config, context=context)
    whole = fuse_adapter(config, adapter=adapter)
    save_fused_model(whole, tokenizer=None, folder=tmp_path / "whole", max_shard_size="60 KB")
    assert get_decision(events)["way"] == "shards"
    fused = read_files(Path(config.resolved_fused_path))
    assert len(fused) > 4
    assert fused == read_files(tmp_path / "whole")
    assert fused.keys() <= set(result.artifacts[0].files)
    assert result.facts["num_parameters"] == whole.num_parameters()
    loaded: Any = AutoModelForCausalLM.from_pretrained(config.resolved_fused_path)
    assert torch.equal(get_logits(loaded), get_logits(whole))
    unchanged: Any = AutoModelForCausalLM.from_pretrained(base)
    assert not torch.equal(get_logits(loaded), get_logits(unchanged))


@pytest.mark.parametrize("kind", [{"force_fp32": True}, {"force_fp16": True}])
def test_another_number_format_than_the_bases_is_cast_before_the_merge(
    make_config: MakeConfig, tmp_path: Path, kind: dict[str, bool]
) -> None:
    base = build_base(tmp_path / "base", family="llama", dtype=torch.bfloat16)
    adapter = build_adapter(tmp_path / "adapter", base=base, target_modules=["q_proj"], modules_to_save=["lm_head"])
    config = make_config(model_name_or_path=str(base), lora_model_local_path=str(adapter), **kind)
    fuse(config)
    save_fused_model(
        fuse_adapter(config, adapter=adapter), tokenizer=None, folder=tmp_path / "whole", max_shard_size="1GB"
    )
    assert read_files(Path(config.resolved_fused_path)) == read_files(tmp_path / "whole")


def rename_as_without_the_head(base: Path) -> None:
    """GPT-2 as it was published: its weights are named as in the model below the head."""
    weights = {}
    for path in base.glob("*.safetensors"):
        weights |= load_file(path)
        path.unlink()
    (base / "model.safetensors.index.json").unlink()
    renamed = {name.removeprefix("transformer."): weight for name, weight in weights.items()}
    save_file(renamed, base / "model.safetensors", metadata={"format": "pt"})


def forget_dtype(base: Path) -> None:
    settings = json.loads((base / "config.json").read_text())
    del settings["dtype"]
    (base / "config.json").write_text(json.dumps(settings))


def nothing(base: Path) -> None:
    """Leaves the base as it is."""


@pytest.mark.parametrize(
    ("family", "fields", "settings", "change", "why"),
    [
        ("llama", {"tie_word_embeddings": True}, {"target_modules": ["lm_head"]}, nothing, "in another form"),
        ("llama", {"tie_word_embeddings": True}, {"target_modules": ["embed_tokens"]}, nothing, "shares its weight"),
        ("gpt2", {}, {"target_modules": ["c_attn"]}, rename_as_without_the_head, "name weights as the model does not"),
        ("llama", {}, {"target_modules": ["q_proj"], "init_lora_weights": "pissa"}, nothing, "pissa"),
        ("qwen2", {}, {"target_modules": ["q_proj"], "bias": "lora_only"}, nothing, "lora_only"),
        ("llama", {}, {"target_modules": ["q_proj"], "trainable_token_indices": [5]}, nothing, "trainable_token_ind"),
        ("llama", {}, {"target_modules": ["q_proj"]}, forget_dtype, "does not name its dtype"),
        ("mixtral", {}, {"target_modules": ["q_proj"]}, nothing, "name weights as the model does not"),
    ],
    ids=["tied-head", "tied-embeddings", "renamed", "pissa", "biases", "tokens", "no-dtype", "experts"],
)
@IGNORED
def test_what_tensors_alone_do_not_tell_is_merged_as_a_whole_model(
    make_config: MakeConfig,
    tmp_path: Path,
    context: StepContext,
    events: RecordedEvents,
    family: str,
    fields: dict[str, object],
    settings: dict[str, Any],
    change: Callable[[Path], None],
    why: str,
) -> None:
    base = build_base(tmp_path / "base", family=family, **fields)
    adapter = build_adapter(tmp_path / "adapter", base=base, **settings)
    change(base)
    config = make_config(model_name_or_path=str(base), lora_model_local_path=str(adapter))
    fuse(config, context=context)
    decision = get_decision(events)
    assert decision["way"] == "whole model"
    assert why in decision["why"]
    adapted: Any = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    loaded: Any = AutoModelForCausalLM.from_pretrained(config.resolved_fused_path)
    torch.testing.assert_close(get_logits(loaded), get_logits(adapted), atol=1e-4, rtol=0)


def test_an_adapter_with_more_tokens_than_the_base_is_merged_as_a_whole_model(
    make_config: MakeConfig, tmp_path: Path, context: StepContext, events: RecordedEvents
) -> None:
    base = build_tiny_llama(tmp_path / "base")
    grown: Any = AutoModelForCausalLM.from_pretrained(base)
    grown.resize_token_embeddings(len(build_tiny_tokenizer()) + 8)
    adapted = get_peft_model(grown, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM"))
    adapted.save_pretrained(str(tmp_path / "adapter"), save_embedding_layers=True)
    fuse(make_config(model_name_or_path=str(base), lora_model_local_path=str(tmp_path / "adapter")), context=context)
    assert "in another form than the base's" in get_decision(events)["why"]


@pytest.mark.parametrize("way", ["shards", "whole model"])
def test_a_merge_that_is_not_finite_is_refused(
    make_config: MakeConfig, tmp_path: Path, context: StepContext, events: RecordedEvents, way: str
) -> None:
    base = build_base(tmp_path / "base", family="llama")
    adapter = build_adapter(tmp_path / "adapter", base=base, target_modules=["q_proj"])
    weights = {name: weight * 1e30 for name, weight in load_file(adapter / "adapter_model.safetensors").items()}
    save_file(weights, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    if way == "whole model":
        forget_dtype(base)
    config = make_config(model_name_or_path=str(base), lora_model_local_path=str(adapter))
    with pytest.raises(FuseError, match="gives values that are not finite") as caught:
        fuse(config, context=context)
    assert caught.value.param == "lora_model_local_path"
    assert get_decision(events)["way"] == way
    assert not Path(config.resolved_fused_path).exists()


def test_a_full_disk_leaves_the_model_that_was_there(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = build_base(tmp_path / "base", family="llama")
    adapter = build_adapter(tmp_path / "adapter", base=base, target_modules=["q_proj"])
    config = make_config(model_name_or_path=str(base), lora_model_local_path=str(adapter))
    fuse(config)
    before = read_files(Path(config.resolved_fused_path))
    num_writes = 0

    def write(*args: Any, **kwargs: Any) -> None:
        nonlocal num_writes
        num_writes += 1
        if num_writes > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        tensor_places.write_tensor(*args, **kwargs)

    # A disk cannot be filled up here; this is how the system tells it.
    monkeypatch.setattr(writing, "write_tensor", write)
    with pytest.raises(DiskFullError):
        fuse(config)
    assert num_writes > 5
    assert read_files(Path(config.resolved_fused_path)) == before


def test_a_base_that_is_cut_off_is_told_of_the_base(make_config: MakeConfig, tmp_path: Path) -> None:
    base = build_base(tmp_path / "base", family="llama")
    adapter = build_adapter(tmp_path / "adapter", base=base, target_modules=["q_proj"])
    shard = sorted(base.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match=f"{shard.name} cannot be read") as caught:
        fuse(make_config(model_name_or_path=str(base), lora_model_local_path=str(adapter)))
    assert caught.value.param == "model_name_or_path"


KILLED = """
import os, signal, sys
from trainer_core.config import build_config
from trainer_core.models.shard_fusing import tensor_places, writing
from trainer_core.steps.fuse import fuse

def write(*args, **kwargs):
    tensor_places.write_tensor(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)

writing.write_tensor = write
base, adapter, fused = sys.argv[1:]
paths = {"model_name_or_path": base, "lora_model_local_path": adapter, "fused_model_local_path": fused}
fuse(build_config(paths | {"path_to_env_file": None}))
"""


@pytest.mark.slow
def test_a_kill_amid_the_writing_leaves_no_half_model(make_config: MakeConfig, tmp_path: Path) -> None:
    base = build_base(tmp_path / "base", family="llama")
    adapter = build_adapter(tmp_path / "adapter", base=base, target_modules=["q_proj"])
    fused = tmp_path / "fused"
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(base), str(adapter), str(fused)]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == -signal.SIGKILL
    assert list((tmp_path / ".fused.partial").glob("*.safetensors"))
    assert not fused.exists()
    values = {"model_name_or_path": str(base), "lora_model_local_path": str(adapter)}
    fuse(make_config(**values, fused_model_local_path=str(fused)))
    assert not (tmp_path / ".fused.partial").exists()
    AutoModelForCausalLM.from_pretrained(fused)
