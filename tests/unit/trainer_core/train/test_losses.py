"""The loss does not depend on how an optimizer step is cut into batches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Trainer

from tests.unit.trainer_core.train.conftest import RecordedEvents, get_losses, get_weights, make_dataset
from trainer_core.config import Config
from trainer_core.context import StepContext
from trainer_core.datasets import GeneralDataset
from trainer_core.steps.train import train
from trainer_core.trainers import LMTrainer, trainers_registry

MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("label_smoothing_factor", [0.0, 0.1])
def test_eight_accumulated_batches_of_one_equal_one_batch_of_eight(
    make_config: MakeConfig, label_smoothing_factor: float
) -> None:
    options = {"max_steps": 3, "apply_lora": True, "lora_dropout": 0.0, "optim": "sgd", "learning_rate": 0.1}
    options["label_smoothing_factor"] = label_smoothing_factor
    whole = train(make_config(**options, per_device_train_batch_size=8), make_dataset())
    cut = train(make_config(**options, per_device_train_batch_size=1, gradient_accumulation_steps=8), make_dataset())
    assert get_losses(cut) == pytest.approx(get_losses(whole), abs=1e-5)
    assert len(get_losses(cut)) == 3
    for name, weight in get_weights(whole).items():
        torch.testing.assert_close(get_weights(cut)[name], weight, atol=1e-6, rtol=1e-4)


class OldStyleTrainer(LMTrainer):
    """As written before Trainer passed num_items_in_batch."""

    num_calls = 0

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:  # type: ignore[override]
        self.num_calls += 1
        return super().compute_loss(model, inputs, return_outputs=return_outputs)


class PlainTrainer(Trainer):
    """Takes none of our arguments."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
        outputs = model(**inputs)
        return (outputs.loss, outputs) if return_outputs else outputs.loss


@pytest.mark.parametrize("trainer_cls", [OldStyleTrainer, PlainTrainer])
def test_a_loss_that_knows_no_num_items_is_averaged_over_accumulated_batches(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents, trainer_cls: type[Trainer]
) -> None:
    trainers_registry.add(key="users", value=trainer_cls, override=True)
    same_length = GeneralDataset([{"text": "the cat reads a long letter."} for _ in range(16)])
    options = {"max_steps": 2, "optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 1e9}
    ours = train(make_config(**options, per_device_train_batch_size=4), same_length)
    config = make_config(
        **options, trainer_key="users", per_device_train_batch_size=1, gradient_accumulation_steps=4, save_total_limit=0
    )
    theirs = train(config, same_length)
    assert get_losses(theirs) == pytest.approx(get_losses(ours), abs=1e-5)
    for name, weight in get_weights(ours).items():
        torch.testing.assert_close(get_weights(theirs)[name], weight, atol=1e-6, rtol=1e-4)


class NothingToLearn:
    """Collates batches in which every label is ignored."""

    def __init__(self, collator: Any) -> None:
        self.tokenizer = collator.tokenizer
        self._collator = collator

    def __call__(self, samples: list[Any]) -> Any:
        batch = self._collator(samples)
        batch["labels"] = torch.full_like(batch["labels"], -100)
        return batch


@pytest.mark.parametrize("label_smoothing_factor", [0.0, 0.1])
def test_a_batch_without_a_supervised_token_changes_nothing(
    make_config: MakeConfig, label_smoothing_factor: float
) -> None:
    from trainer_core.experiments import Experiment

    config = make_config(
        max_steps=2, optim="sgd", weight_decay=0.0, label_smoothing_factor=label_smoothing_factor, apply_lora=True
    )
    experiment = Experiment(config, train_dataset=make_dataset(4), eval_dataset=make_dataset(2))
    experiment.after_collator_build = lambda: setattr(experiment, "collator", NothingToLearn(experiment.collator))  # type: ignore[method-assign]
    experiment.build()
    before = get_weights(experiment)
    experiment.run()
    assert get_losses(experiment) == [0.0, 0.0]
    assert experiment.result.facts["eval_loss"] == 0.0
    for name, weight in get_weights(experiment).items():
        assert torch.equal(weight, before[name])
