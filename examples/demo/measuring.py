"""Losses and answers of the base, the tuned, the fused and the quantized model on the held-out rows."""

from dataclasses import dataclass
from pathlib import Path

from examples.demo.rows import DemoRows

MAX_LENGTH = 512


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
    from trainer_core.generation import generate_answer
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
            "base": generate_answer(folders.base, rows.question, config),
            "tuned": generate_answer(folders.base, rows.question, config, adapter_path=folders.adapter),
        }
    base = results["base"]
    losses = {name: result.loss for name, result in results.items()}
    return Measurements(losses=losses, num_rows=base.num_rows, num_tokens=base.num_tokens, answers=answers)
