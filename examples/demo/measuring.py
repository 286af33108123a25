"""Losses and answers of the base, the tuned, the fused and the quantized model on the held-out rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from examples.demo.rows import DemoRows

if TYPE_CHECKING:
    from trainer_core.config import Config

MAX_LENGTH = 512
REPETITION_PENALTY = 1.3
"""A small model that answers greedily says one thing again and again without it."""


@dataclass(frozen=True)
class ModelFolders:
    """Where the models lie."""

    base: Path
    adapter: Path
    fused: Path
    quantized: Path


@dataclass(frozen=True)
class Measurements:
    """What was measured."""

    losses: dict[str, float]
    """Nats per supervised token of `base`, `tuned` (adapter on), `fused` and `quantized`."""
    num_rows: int
    num_tokens: int
    answers: dict[str, str]
    """Of `base` and `tuned` to the same question."""


def measure_models(folders: ModelFolders, rows: DemoRows) -> Measurements:
    """Evaluates all four on the held-out rows with the trainer's own functions, in this process."""
    from trainer_core.config import Config
    from trainer_core.evaluation import evaluate_loss
    from trainer_core.quantizers.library_noise import quiet_library

    config = Config(model_name_or_path=str(folders.base), max_length=MAX_LENGTH, per_device_eval_batch_size=8)
    path = rows.validation
    with quiet_library():
        results = {
            "base": evaluate_loss(folders.base, path, config),
            "tuned": evaluate_loss(folders.base, path, config, adapter_path=folders.adapter),
            "fused": evaluate_loss(folders.fused, path, config),
            "quantized": evaluate_loss(folders.quantized, path, config),
        }
        answers = {
            "base": _ask(folders.base, rows, config),
            "tuned": _ask(folders.base, rows, config, adapter=folders.adapter),
        }
    base = results["base"]
    losses = {name: result.loss for name, result in results.items()}
    return Measurements(losses=losses, num_rows=base.num_rows, num_tokens=base.num_tokens, answers=answers)


def _ask(model: Path, rows: DemoRows, config: "Config", *, adapter: Path | None = None) -> str:
    from trainer_core.generation import generate_answer

    return generate_answer(model, rows.question, config, adapter_path=adapter, repetition_penalty=REPETITION_PENALTY)
