"""Tiny models with packed layers, and a Config that trains an adapter over one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.packed_models import Rounding, build_packed_llama
from tests.support.tiny_models import iterate_sentences
from trainer_core.config import Config, build_config
from trainer_core.datasets import GeneralDataset

MakeConfig = Callable[..., Config]
SMALL: dict[str, Any] = {"num_hidden_layers": 1}


@pytest.fixture(scope="session")
def gptq_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 bits, groups of 32, GPTQ layout, in three files that split layers between them, with tied embeddings."""
    folder = tmp_path_factory.mktemp("gptq") / "model"
    return build_packed_llama(folder, layout="gptq", num_shards=3, tie_word_embeddings=True, **SMALL)


@pytest.fixture(scope="session")
def compressed_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 bits with zero points, groups of 64 but for down projections of 320 columns, compressed-tensors layout."""
    folder = tmp_path_factory.mktemp("compressed") / "model"
    rounding = Rounding(group_size=128, symmetric=False)
    return build_packed_llama(folder, layout="compressed-tensors", rounding=rounding, intermediate_size=320, **SMALL)


@pytest.fixture
def make_config(gptq_llama: Path, tmp_path: Path) -> MakeConfig:
    """A Config of four steps over the GPTQ model, every path below the test's folder."""

    def make(**values: object) -> Config:
        defaults: dict[str, object] = {
            "model_name_or_path": str(gptq_llama),
            "output_dir": str(tmp_path / "outputs"),
            "train_local_path_to_data": str(tmp_path / "train.jsonl"),
            "dataset_key": "general",
            "from_gptq": True,
            "apply_lora": True,
            "max_length": 32,
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "learning_rate": 1e-2,
            "warmup_steps": 0,
            "optim": "adamw_torch",
            "logging_steps": 1,
        }
        return build_config(defaults | values)

    return make


@pytest.fixture
def dataset() -> GeneralDataset:
    """Sixteen short sentences."""
    return GeneralDataset([{"text": text[:60]} for text in list(iterate_sentences())[:16]])
