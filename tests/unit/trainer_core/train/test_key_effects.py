"""Every key of the training changes something that can be seen: losses, rates, steps, files or the optimizer."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny_models import build_tiny_llama
from tests.unit.trainer_core.train.conftest import RecordedEvents, get_losses, make_dataset
from trainer_core.config import build_config
from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.experiments import Experiment

ROOT = Path(__file__).parents[4]
DOCUMENTED = json.loads((ROOT / "tests" / "golden" / "documented_config.json").read_text())
HERE = "tests/unit/trainer_core/train"

# The key, another value of it, what has to change by it, and what else is set in both runs.
EFFECTS: list[tuple[str, object, str, dict[str, object]]] = [
    ("per_device_train_batch_size", 4, "train batches", {}),
    ("per_device_eval_batch_size", 1, "eval batches", {}),
    ("gradient_accumulation_steps", 2, "steps", {}),
    ("eval_accumulation_steps", 7, "eval accumulation", {}),
    ("eval_delay", 3, "evaluations", {}),
    ("eval_steps", 1, "evaluations", {}),
    ("warmup_steps", 2, "rates", {}),
    ("max_steps", 3, "steps", {}),
    ("num_train_epochs", 2, "steps", {}),
    ("learning_rate", 1e-3, "rates", {}),
    ("max_grad_norm", 1e-3, "weights", {"optim": "sgd"}),
    ("weight_decay", 0.5, "weights", {}),
    ("label_smoothing_factor", 0.1, "losses", {}),
    ("logging_steps", 2, "metrics", {}),
    ("save_steps", 1, "checkpoints", {}),
    ("save_total_limit", 0, "checkpoints that are left", {}),
    ("optim", "sgd", "optimizer", {}),
    ("optim_args", "momentum=0.9", "weights", {"optim": "sgd"}),
    ("optim_target_modules", "q_proj", "groups", {"optim": "galore_adafactor"}),
    ("adam_beta1", 0.5, "weights", {}),
    ("adam_beta2", 0.5, "weights", {}),
    ("adam_epsilon", 1e-2, "weights", {}),
    ("lr_scheduler_type", "cosine", "rates", {}),
    ("lr_scheduler_kwargs", {"num_cycles": 3}, "rates", {"lr_scheduler_type": "cosine"}),
    ("loraplus_lr_ratio", 16, "groups", {"apply_lora": True}),
    ("neftune_noise_alpha", 5.0, "losses", {}),
    ("seed", 7, "losses", {}),
]

SEEN_ELSEWHERE = {
    "do_eval": f"{HERE}/test_experiment.py",
    "output_dir": f"{HERE}/test_resume.py",
    "resume_from_checkpoint": f"{HERE}/test_resume.py",
    "loraplus_lr_embedding": f"{HERE}/test_optimizers.py",
    "report_to_wandb": f"{HERE}/test_trackers.py",
    "report_to": f"{HERE}/test_trackers.py",
    "run_name": f"{HERE}/test_trackers.py",
    "project_name": f"{HERE}/test_trackers.py",
    "wandb_api_key": f"{HERE}/test_trackers.py",
    "wandb_entity": f"{HERE}/test_trackers.py",
    "wandb_project": f"{HERE}/test_trackers.py",
}
OF_THE_HUB = {"hub_model_id", "hub_private_repo", "push_to_hub"}


@pytest.fixture(scope="module")
def one_layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llama(tmp_path_factory.mktemp("one-layer"), num_hidden_layers=1)


@pytest.fixture(scope="module")
def observe(one_layer: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Any]]:
    """Trains with some keys and returns what can be seen of it; the same keys are trained once."""
    seen: dict[str, dict[str, Any]] = {}

    def run(**values: object) -> dict[str, Any]:
        name = json.dumps(values, sort_keys=True)
        if name not in seen:
            seen[name] = _observe(values, model=one_layer, folder=tmp_path_factory.mktemp("run"))
        return seen[name]

    return run


def _observe(values: Mapping[str, object], *, model: Path, folder: Path) -> dict[str, Any]:
    config = build_config(
        {
            **{"model_name_or_path": str(model), "output_dir": str(folder), "dataset_key": "general"},
            **{"max_length": 32, "warmup_steps": 0, "optim": "adamw_torch", "lora_dropout": 0.0, "packing": "off"},
            **{"logging_steps": 1, "eval_steps": 2, "save_steps": 2, "learning_rate": 1e-2},
            **values,
        }
    )
    events = RecordedEvents()
    experiment = Experiment(config, train_dataset=make_dataset(8), eval_dataset=make_dataset(4))
    experiment.context = StepContext(step=Step.TRAIN, events=events)
    experiment.build()
    batches: dict[bool, list[int]] = {True: [], False: []}
    experiment.model.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda module, _, kwargs: batches[module.training].append(len(kwargs["input_ids"])), with_kwargs=True
    )
    experiment.run()
    metrics = events.of_type("metrics")
    optimizer = experiment.trainer.optimizer  # type: ignore[union-attr]
    return {
        "train batches": batches[True],
        "eval batches": batches[False],
        "steps": experiment.result.facts["global_step"],
        "eval accumulation": experiment.training_arguments.eval_accumulation_steps,  # type: ignore[union-attr]
        "evaluations": [each["global_step"] for each in metrics if "eval_loss" in each],
        "metrics": [each["global_step"] for each in metrics if "loss" in each],
        "rates": [each["learning_rate"] for each in metrics if "loss" in each],
        "losses": get_losses(experiment),
        "checkpoints": [each["global_step"] for each in events.of_type("checkpoint.saved")],
        "checkpoints that are left": sorted(path.name for path in folder.glob("checkpoint-*")),
        "optimizer": type(getattr(optimizer, "optimizer", optimizer)).__name__,
        "groups": [(len(group["params"]), group["lr"]) for group in optimizer.param_groups],
        "weights": [float(p.detach().double().abs().sum()) for p in experiment.model.parameters()],  # type: ignore[union-attr]
    }


@pytest.mark.parametrize(("key", "value", "changed", "others"), EFFECTS, ids=[row[0] for row in EFFECTS])
def test_the_key_changes_what_it_is_for(
    observe: Callable[..., dict[str, Any]], key: str, value: object, changed: str, others: dict[str, object]
) -> None:
    before, after = observe(**others), observe(**others, **{key: value})
    assert before[changed] != after[changed]


def test_the_same_keys_give_the_same_training(one_layer: Path, tmp_path: Path) -> None:
    first, again = (_observe({}, model=one_layer, folder=tmp_path / name) for name in ("first", "again"))
    assert first == again


def test_what_the_keys_say_is_what_is_seen(observe: Callable[..., dict[str, Any]]) -> None:
    plain = observe()
    assert (plain["steps"], plain["train batches"]) == (4, [2, 2, 2, 2])
    assert plain["metrics"] == [1, 2, 3, 4]
    assert (plain["evaluations"], plain["checkpoints"]) == ([2, 4], [2, 4])
    assert plain["checkpoints that are left"] == ["checkpoint-4"]
    assert observe(eval_delay=3)["evaluations"] == [4]
    assert observe(save_total_limit=0)["checkpoints that are left"] == ["checkpoint-2", "checkpoint-4"]
    assert observe(save_steps=1)["checkpoints"] == [1, 2, 3, 4]
    assert observe(gradient_accumulation_steps=2)["steps"] == 2
    assert observe(max_steps=3)["steps"] == 3
    assert observe(warmup_steps=2)["rates"][:3] == pytest.approx([0.0, 5e-3, 1e-2])


def test_every_documented_key_of_the_training_is_in_a_table() -> None:
    keys = {name for name, row in DOCUMENTED.items() if row["step"] in ("training arguments", "wandb")}
    shown = {row[0] for row in EFFECTS}
    assert keys - shown - set(SEEN_ELSEWHERE) == OF_THE_HUB
    for key, path in SEEN_ELSEWHERE.items():
        assert re.search(rf"\b{key}\b", (ROOT / path).read_text()), key


def test_the_noise_on_embeddings_is_taken_off_after_training(one_layer: Path, tmp_path: Path) -> None:
    config = build_config(
        {
            **{"model_name_or_path": str(one_layer), "output_dir": str(tmp_path), "dataset_key": "general"},
            **{"neftune_noise_alpha": 5.0, "max_steps": 1, "optim": "sgd", "warmup_steps": 0},
        }
    )
    experiment = Experiment(config, train_dataset=make_dataset(4))
    experiment.build()
    experiment.run()
    model: Any = experiment.model
    embeddings = model.get_input_embeddings()
    assert not embeddings._forward_hooks
    ids = torch.arange(8).unsqueeze(0)
    model.train()
    assert torch.equal(embeddings(ids), embeddings(ids))
