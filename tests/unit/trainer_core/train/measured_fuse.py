"""Fuses a random bf16 Llama in a process of its own, and prints the peak of its memory in bytes."""

import json
import re
import sys
import threading
from pathlib import Path

import torch
import transformers.models.llama.modeling_llama  # noqa: F401 - what fusing imports is not what it needs
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from tests.support.tiny_models import build_tiny_tokenizer
from trainer_core.config import build_config
from trainer_core.models.fusing import fuse_adapter, save_fused_model
from trainer_core.steps.fuse import fuse


def build(folder: Path, *, num_layers: int, hidden_size: int, max_shard_size: str) -> int:
    """Writes base, tokenizer and adapter, and returns the bytes of the base."""
    tokenizer = build_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 3,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 64,
        tie_word_embeddings=False,
    )
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "base", max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder / "base")
    torch.set_default_dtype(torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.01)
    adapted.save_pretrained(folder / "adapter")
    return sum(path.stat().st_size for path in (folder / "base").glob("*.safetensors"))


def warm_up(folder: Path) -> None:
    """Fuses a tiny model, so that everything is imported."""
    build(folder, num_layers=1, hidden_size=64, max_shard_size="1GB")
    fuse(build_config(name_paths(folder)))


def name_paths(folder: Path) -> dict[str, str]:
    """The Config of what `build` has written."""
    paths = {"model_name_or_path": "base", "lora_model_local_path": "adapter", "fused_model_local_path": "fused"}
    return {key: str(folder / name) for key, name in paths.items()}


def read_bytes(key: str) -> int:
    """A line of what Linux says about this process's memory: `RssAnon`, its own without mapped files, or `VmHWM`, the
    peak of all that was in memory."""
    found = re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found.group(1)) * 1024 if found else 0


def fuse_shards(folder: Path, *, max_shard_size: str) -> int:
    """Fuses, and returns by how much the peak of all memory, mapped files included, was above what it was before."""
    Path("/proc/self/clear_refs").write_text("5")  # Forgets the peak so far.
    before = read_bytes("VmHWM")
    fuse(build_config(name_paths(folder) | {"max_shard_size": max_shard_size}))
    return read_bytes("VmHWM") - before


def fuse_whole_model(folder: Path, *, max_shard_size: str) -> int:
    """Fuses, and returns by how much the own memory had grown at its peak."""
    config = build_config(name_paths(folder) | {"max_shard_size": max_shard_size})
    before, peak, ended = read_bytes("RssAnon"), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, read_bytes("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        merged = fuse_adapter(config, adapter=folder / "adapter")
        save_fused_model(merged, tokenizer=None, folder=folder / "fused", max_shard_size=max_shard_size)
    finally:
        ended.set()
        watcher.join()
    return peak - before


if __name__ == "__main__":
    way, place, shard_size = sys.argv[1:]
    warm_up(Path(place) / "tiny")
    measure = fuse_shards if way == "shards" else fuse_whole_model
    print(json.dumps(measure(Path(place), max_shard_size=shard_size)))
