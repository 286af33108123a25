"""Whole trainings in rows: the same weights as padded ones, and what is told when it cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.unit.trainer_core.train.conftest import RecordedEvents, get_losses, get_weights, make_dataset
from trainer_core.collators import LMCollator, collators_registry
from trainer_core.config import Config
from trainer_core.context import StepContext
from trainer_core.errors import ConfigError, DeviceMemoryError
from trainer_core.experiments import Experiment
from trainer_core.padding_free.rows import Row
from trainer_core.steps.train import train
from trainer_core.trainers import LMTrainer, trainers_registry

MakeConfig = Callable[..., Config]
DATA = (make_dataset(16), make_dataset(6))
EIGHT = {"per_device_train_batch_size": 8}
PLAIN = {"packing": "off", "fused_loss": "off", "lean_lora": "off"}


@pytest.mark.parametrize(
    "options",
    [
        {"per_device_train_batch_size": 8},
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"per_device_train_batch_size": 4, "label_smoothing_factor": 0.1},
        {"per_device_train_batch_size": 4, "use_gradient_checkpointing": True},
        {"per_device_train_batch_size": 4, "apply_lora": False},
    ],
    ids=["LoRA", "accumulated", "label smoothing", "checkpointing", "full"],
)
def test_a_training_in_rows_is_the_padded_one(make_config: MakeConfig, tmp_path: Path, options: dict[str, Any]) -> None:
    shared = {"max_steps": 4, "apply_lora": True, "lora_dropout": 0.0, "optim": "sgd", "learning_rate": 0.1}
    data, eval_data = make_dataset(20), make_dataset(6)
    runs = []
    for name, plain in (("padded", PLAIN), ("rows", {})):
        config = make_config(**{**shared, **options, **plain, "output_dir": str(tmp_path / name), "eval_steps": 2})
        runs.append(train(config, data, eval_data))
    padded, rows = runs
    assert get_losses(rows) == pytest.approx(get_losses(padded), abs=1e-5)
    assert len(get_losses(rows)) == 4
    eval_losses = [
        [record["eval_loss"] for record in run.trainer.state.log_history if "eval_loss" in record]  # type: ignore[union-attr]
        for run in runs
    ]
    assert eval_losses[1] == pytest.approx(eval_losses[0], abs=1e-4)
    for key, weight in get_weights(padded).items():
        torch.testing.assert_close(get_weights(rows)[key], weight, atol=1e-6, rtol=1e-4, msg=key)


def test_what_was_chosen_is_told_with_its_reason(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents
) -> None:
    train(make_config(max_steps=1, apply_lora=True, lora_dropout=0.0), make_dataset(8), context=context)
    told = {key: data for data in events.of_type("decision") for key in data}
    assert told["packing"]["packing"] == "on"
    assert told["packing"]["tokens_per_row"] == 96
    assert told["fused_loss"]["fused_loss"] == told["lean_lora"]["lean_lora"] == "on"
    assert told["torch_compile"]["torch_compile"] == "off"
    assert "GPU" in told["torch_compile"]["reason"]


def test_metrics_tell_padding_and_waiting(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents
) -> None:
    train(make_config(max_steps=3), make_dataset(8), context=context)
    record = next(data for data in events.of_type("metrics") if data["global_step"] == 2)
    assert record["padding_percent"] == 0
    assert 0 <= record["data_wait_percent"] <= 100


def test_a_token_budget_makes_the_steps(make_config: MakeConfig, context: StepContext, events: RecordedEvents) -> None:
    data = make_dataset(64)
    config = make_config(tokens_per_batch=128, num_train_epochs=2, gradient_accumulation_steps=2)
    experiment = train(config, data, context=context)
    trainer = experiment.trainer
    assert trainer is not None
    sampler = trainer.token_budget  # type: ignore[attr-defined]
    steps_a_pass = -(-len(sampler) // 2)
    assert trainer.state.global_step == 2 * steps_a_pass
    num_tokens = sum(sampler.lengths)
    assert trainer.state.num_input_tokens_seen == 2 * num_tokens
    assert num_tokens / (64 * len(sampler)) > 0.85


@pytest.fixture
def own_parts() -> None:
    class OwnLoss(LMTrainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs)

    class OwnBatch(LMCollator):
        def parse_batch(self, raw_batch: Any) -> Any:
            return super().parse_batch(raw_batch)

    trainers_registry.add(key="own-loss", value=OwnLoss, override=True)
    collators_registry.add(key="own-batch", value=OwnBatch, override=True)


@pytest.mark.usefixtures("own_parts")
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"packing": "off"}, "packing is 'off'"),
        ({"neftune_noise_alpha": 5.0}, "NEFTune"),
        ({"trainer_key": "own-loss"}, "OwnLoss has a compute_loss of its own"),
        ({"collator_key": "own-batch"}, "OwnBatch makes its batches itself"),
    ],
)
def test_what_is_not_exact_in_rows_is_padded_and_told(
    make_config: MakeConfig,
    context: StepContext,
    events: RecordedEvents,
    options: dict[str, Any],
    reason: str,
) -> None:
    experiment = train(make_config(max_steps=1, **options), make_dataset(8), context=context)
    assert reason in events.messages("decision")
    assert get_losses(experiment)
    # What the Config alone tells is refused before.
    if options.keys() & {"trainer_key", "collator_key"}:
        with pytest.raises(ConfigError, match=reason):
            train(make_config(max_steps=1, packing="on", **options), make_dataset(8))
        with pytest.raises(ConfigError, match="tokens_per_batch"):
            train(make_config(max_steps=1, tokens_per_batch=64, **options), make_dataset(8))


def test_a_sample_longer_than_a_row_has_one_of_its_own(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents
) -> None:
    experiment = train(make_config(tokens_per_batch=16, num_train_epochs=1), make_dataset(12), context=context)
    assert "longer than the 16 tokens of a row" in events.messages("warning")
    assert experiment.trainer.state.num_input_tokens_seen == sum(  # type: ignore[union-attr]
        experiment.trainer.token_budget.lengths  # type: ignore[union-attr]
    )


@pytest.mark.parametrize(("packing", "told"), [("on", "rows have"), ("off", "passes have 4 samples")])
def test_out_of_memory_halves_a_pass_and_keeps_the_step(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents, tmp_path: Path, packing: str, told: str
) -> None:
    options = {"max_steps": 3, "per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.1}
    options["packing"] = packing
    whole = train(make_config(**options, output_dir=str(tmp_path / "whole")), make_dataset(24))

    class SmallDevice(LMTrainer):
        """A device whose memory holds 100 tokens."""

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            self.model.register_forward_pre_hook(self._allocate, with_kwargs=True)
            return super().create_optimizer(*args, **kwargs)

        @staticmethod
        def _allocate(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if kwargs["input_ids"].numel() > 100:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    trainers_registry.add(key="small-device", value=SmallDevice, override=True)
    config = make_config(**options, trainer_key="small-device", output_dir=str(tmp_path / "halved"))
    halved = train(config, make_dataset(24), context=context)
    assert f"memory is too small: {told}" in events.messages("warning")
    assert get_losses(halved) == pytest.approx(get_losses(whole), abs=1e-5)
    for key, weight in get_weights(whole).items():
        torch.testing.assert_close(get_weights(halved)[key], weight, atol=1e-6, rtol=1e-4, msg=key)


@pytest.mark.filterwarnings("ignore:This implementation of AdamW is deprecated")
@pytest.mark.parametrize(("optim", "optim_args"), [("lomo", None), ("galore_adamw_layerwise", "rank=4")])
def test_out_of_memory_ends_a_training_whose_passes_change_the_weights(
    make_config: MakeConfig, optim: str, optim_args: str | None
) -> None:
    class FullDevice(LMTrainer):
        """A device whose memory is full once, in the second pass."""

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            self.passes = iter([False, True])
            self.model.register_forward_pre_hook(self._allocate)
            return super().create_optimizer(*args, **kwargs)

        def _allocate(self, *_: Any) -> None:
            if next(self.passes, False):
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    trainers_registry.add(key="full-device", value=FullDevice, override=True)
    with pytest.raises(DeviceMemoryError):
        train(
            make_config(optim=optim, optim_args=optim_args, max_steps=4, trainer_key="full-device", **EIGHT),
            make_dataset(24),
        )


def test_out_of_memory_while_a_batch_is_brought_to_the_device(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(self: Row, *args: Any, **kwargs: Any) -> Row:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Experiment, "before_train", lambda self: monkeypatch.setattr(Row, "to", fill))
    with pytest.raises(DeviceMemoryError):
        train(make_config(max_steps=1), make_dataset(8))


class OwnLoss(LMTrainer):
    """Has Trainer's hook for a loss of one's own, and metrics of one's own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.compute_loss_func = self._compute
        self.compute_metrics = lambda prediction: {"shape": str(prediction.predictions.shape)}

    def _compute(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs.logits[:, :-1].flatten(0, 1)
        total = nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
        return total / num_items_in_batch


def test_a_trainers_own_loss_gets_logits_and_its_metrics_padded_batches(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents, tmp_path: Path
) -> None:
    trainers_registry.add(key="own-loss", value=OwnLoss, override=True)
    options = {"max_steps": 2, "trainer_key": "own-loss", "do_eval": True, "eval_steps": 2, "optim": "sgd"}
    padded = train(make_config(**options, packing="off", output_dir=str(tmp_path / "padded")), *DATA)
    rows = train(make_config(**options), *DATA, context=context)

    reason = "does not compute the loss without holding all logits: the trainer has a compute_loss_func of its own"
    assert reason in events.messages("decision")
    assert "lays samples end to end" in events.messages("decision")
    assert get_losses(rows) == pytest.approx(get_losses(padded), abs=1e-5)
    shapes, expected = (
        [record["eval_shape"] for record in run.trainer.state.log_history if "eval_shape" in record]  # type: ignore[union-attr]
        for run in (rows, padded)
    )
    assert shapes == expected
    assert shapes[0].startswith("(6, ")
    with pytest.raises(ConfigError, match="compute_loss_func"):
        train(make_config(**options, fused_loss="on"), *DATA)


def test_another_data_set_is_evaluated_and_predicted_by_hand(make_config: MakeConfig) -> None:
    train_data, eval_data = DATA
    options = {"max_steps": 1, "do_eval": True, "eval_steps": 1, "dataloader_num_workers": 1}
    trainer = train(make_config(**options), train_data, eval_data).trainer
    assert trainer is not None
    assert trainer.args.dataloader_persistent_workers
    of_trainer, of_other = (trainer.evaluate(data)["eval_loss"] for data in (None, train_data))
    prediction = trainer.predict(train_data)

    assert prediction.predictions.shape[0] == len(train_data)
    assert prediction.metrics["test_loss"] == pytest.approx(of_other, rel=1e-2)
    assert abs(of_other - of_trainer) > 1e-3
    assert trainer.evaluate()["eval_loss"] == of_trainer
    trainer.compute_metrics = lambda prediction: {"num_samples": len(prediction.predictions)}
    assert trainer.evaluate()["eval_num_samples"] == len(eval_data)


def test_a_trainers_own_order_of_samples_is_not_passed_over(make_config: MakeConfig) -> None:
    class OwnOrder(LMTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return range(4)

    trainers_registry.add(key="own-order", value=OwnOrder, override=True)
    with pytest.raises(ConfigError, match="_get_train_sampler of its own"):
        train(make_config(max_steps=1, trainer_key="own-order", tokens_per_batch=96), make_dataset(8))


@pytest.mark.parametrize("packing", ["on", "off"])
def test_out_of_memory_in_a_later_batch_of_a_step_computes_the_earlier_ones_again(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents, tmp_path: Path, packing: str
) -> None:
    options = {"max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 3, "optim": "sgd"}
    # Rows of a token budget stay batches of their own.
    options |= {"learning_rate": 0.1, **({"tokens_per_batch": 300} if packing == "on" else {"packing": "off"})}
    whole = train(make_config(**options, output_dir=str(tmp_path / "whole")), make_dataset(36))
    num_passes = 0

    class FullOnce(LMTrainer):
        """A device whose memory is too small for the third pass of the second step, once, in its backward pass."""

        def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            layers: Any = self.model.model.layers  # type: ignore[union-attr]
            layers[0].register_full_backward_hook(self._allocate)
            return super().create_optimizer(*args, **kwargs)

        @staticmethod
        def _allocate(*_: Any) -> None:
            nonlocal num_passes
            num_passes += 1
            if num_passes == 6:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    trainers_registry.add(key="full-once", value=FullOnce, override=True)
    config = make_config(**options, trainer_key="full-once", output_dir=str(tmp_path / "halved"))
    halved = train(config, make_dataset(36), context=context)
    assert events.messages("warning").count("memory is too small") == 1
    # Three steps of three, of which two passes are run again before the third, all of them in two parts from then on.
    assert num_passes > 9 + 3
    assert get_losses(halved) == pytest.approx(get_losses(whole), abs=1e-5)
    for key, weight in get_weights(whole).items():
        torch.testing.assert_close(get_weights(halved)[key], weight, atol=1e-6, rtol=1e-4, msg=key)


def test_as_many_layers_as_the_budget_asks_for_compute_anew(
    make_config: MakeConfig, context: StepContext, events: RecordedEvents, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"max_steps": 2, "per_device_train_batch_size": 8, "optim": "sgd", "learning_rate": 0.1}
    options |= {"apply_lora": True, "lora_dropout": 0.3}
    kept = train(make_config(**options, output_dir=str(tmp_path / "kept")), make_dataset(16))
    counts = []
    for name, changes in (
        ("none", {"activation_memory_budget_gib": 100.0}),
        ("all", {"activation_memory_budget_gib": 1e-6}),
        ("all in host memory", {"activation_memory_budget_gib": 1e-6, "offload_activations": True}),
        ("all but the last", {"use_gradient_checkpointing": True}),
    ):
        config = make_config(**options, **changes, output_dir=str(tmp_path / name))
        spared = train(config, make_dataset(16), context=context)
        assert get_losses(spared) == pytest.approx(get_losses(kept), abs=1e-6)
        model: Any = spared.model.get_base_model()  # type: ignore[union-attr, operator]
        counts.append(sum(layer.gradient_checkpointing for layer in model.model.layers))
    assert counts == [0, 2, 2, 1]
    assert [each["num_checkpointed_layers"] for each in events.of_type("decision") if "num_layers" in each] == counts


@pytest.mark.slow
def test_two_hundred_steps_in_rows_follow_the_padded_curve(make_config: MakeConfig, tmp_path: Path) -> None:
    shared = {"max_steps": 200, "learning_rate": 2e-3, "per_device_train_batch_size": 4, "apply_lora": True}
    runs = {
        name: train(make_config(**shared, **options, output_dir=str(tmp_path / name)), make_dataset(64))
        for name, options in (("padded", PLAIN), ("rows", {}), ("another seed", {**PLAIN, "seed": 7}))
    }
    losses = {name: torch.tensor(get_losses(run)) for name, run in runs.items()}
    noise = (losses["another seed"] - losses["padded"]).abs()[-50:].mean()
    difference = (losses["rows"] - losses["padded"]).abs()[-50:].mean()
    assert losses["rows"][-1] < 0.8 * losses["rows"][0]
    assert difference <= noise
