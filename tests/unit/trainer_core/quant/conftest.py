"""A tiny model that has learned something, and rows to look at it with."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.support.tiny_models import build_tiny_llama, iterate_sentences
from trainer_core.config import Config, build_config

MakeConfig = Callable[..., Config]


@pytest.fixture(scope="session")
def trained_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose down projections are 320 wide, trained for 60 steps: its layers' inputs are far from noise."""
    folder = build_tiny_llama(tmp_path_factory.mktemp("trained") / "model", intermediate_size=320)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(list(iterate_sentences())[::3], return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(60):
        model(**batch, labels=labels, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chat_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 short conversations, one JSON object a line."""
    path = tmp_path_factory.mktemp("rows") / "train.jsonl"
    lines = []
    for text in list(iterate_sentences())[::3]:
        messages = [{"role": "user", "content": text[:24]}, {"role": "assistant", "content": text[24:]}]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def make_config(trained_model: Path, chat_rows: Path, tmp_path: Path) -> MakeConfig:
    """A Config of the trained model and the conversations, every path below the test's folder."""

    def make(**values: object) -> Config:
        defaults = {
            "model_name_or_path": str(trained_model),
            "train_local_path_to_data": str(chat_rows),
            "dataset_key": "chat",
            "output_dir": str(tmp_path / "outputs"),
            "quantized_model_path": str(tmp_path / "quantized"),
            "gptq_group_size": 64,
            "quantization_max_samples": 24,
        }
        return build_config(defaults | values)

    return make
