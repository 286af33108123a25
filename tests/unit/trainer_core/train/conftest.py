"""A tiny model, data and a recording context for the tests of training and fusing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny_models import build_tiny_llama, iterate_sentences
from trainer_core.config import Config, build_config
from trainer_core.context import StepContext
from trainer_core.datasets import GeneralDataset
from trainer_core.enums import Step


class RecordedEvents:
    """Keeps what was emitted."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str, dict[str, Any]]] = []

    def emit(self, type: str, *, message: str = "", level: str = "info", data: Mapping[str, Any] | None = None) -> None:
        self.all.append((type, message, dict(data or {})))

    def of_type(self, wanted: str) -> list[dict[str, Any]]:
        return [data for type, _, data in self.all if type == wanted]

    def messages(self, wanted: str) -> str:
        return "\n".join(message for type, message, _ in self.all if type == wanted)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture
def events() -> RecordedEvents:
    return RecordedEvents()


@pytest.fixture
def context(events: RecordedEvents) -> StepContext:
    return StepContext(step=Step.TRAIN, events=events)


@pytest.fixture
def make_config(tiny_llama: Path, tmp_path: Path) -> Callable[..., Config]:
    def make(**values: object) -> Config:
        defaults: dict[str, object] = {
            "model_name_or_path": str(tiny_llama),
            "output_dir": str(tmp_path / "outputs"),
            "train_local_path_to_data": str(tmp_path / "data" / "train.jsonl"),
            "dataset_key": "general",
            "max_length": 48,
            "warmup_steps": 0,
            "optim": "adamw_torch",
            "logging_steps": 1,
        }
        return build_config(defaults | values)

    return make


def make_dataset(num_samples: int = 32) -> GeneralDataset:
    """Sentences of different lengths, so that padding and token counts matter."""
    sentences = list(iterate_sentences())[:num_samples]
    return GeneralDataset([{"text": sentence[: 20 + 5 * (i % 9)]} for i, sentence in enumerate(sentences)])


def get_losses(experiment: Any) -> list[float]:
    return [record["loss"] for record in experiment.trainer.state.log_history if "loss" in record]


def get_weights(experiment: Any) -> dict[str, torch.Tensor]:
    """What was trained, by name."""
    return {name: value.detach().clone() for name, value in experiment.model.named_parameters() if value.requires_grad}


INPUT_IDS = torch.tensor([[0, 44, 77, 266, 203, 45, 283, 100, 200, 300]])


def get_logits(model: Any) -> torch.Tensor:
    """What a model computes for ten tokens."""
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(INPUT_IDS, use_cache=False).logits
    return logits
