"""The step train, as far as it goes without a job: an adapter on a tiny model, one optimizer step."""

import importlib
from typing import Any

import torch
from transformers import Trainer

from trainer_core.config import Config, Step
from trainer_core.context import StepContext
from trainer_core.datasets.general import GeneralDataset
from trainer_core.experiments.base import Experiment
from trainer_core.models.library_habits import spare_deepspeed_import
from trainer_core.padding_free.collator import is_row_batch
from trainer_core.rehearsal.parts import FAMILIES, build_model, build_rows, build_tokenizer
from trainer_core.rehearsal.without_devices import is_built_for_devices
from trainer_core.trainers.checkpoint_callback import CheckpointCallback
from trainer_core.trainers.row_trainer import RowTrainer

_MODULES = (
    *(f"transformers.models.{name}.modeling_{name}" for name in FAMILIES),
    "peft.utils.transformers_weight_conversion",
    "torch.utils.serialization.config",
    "safetensors.torch",
    # bitsandbytes imports them, which may have to wait until the GPUs are known.
    "functorch.compile",
    "torch._inductor.compile_fx",
)


class _SilentSink:
    def emit(self, type: str, **_: Any) -> None:
        """Nobody is told of what is no job."""


class _Rehearsal(Experiment):
    """Leaves no file."""

    def save_config(self) -> None:
        """Not here."""

    def build_tokenizer(self) -> Any:
        """In memory."""
        return build_tokenizer()


def rehearse() -> None:
    """Trains once. Call it within `without_devices`; random states are the caller's to restore."""
    for name in _MODULES:
        importlib.import_module(name)
    config = Config(
        model_name_or_path="rehearsal",
        output_dir="rehearsal",
        dataset_key="general",
        collator_key="lm",
        optim="adamw_torch",
        max_steps=1,
        max_length=16,
        warmup_steps=0,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        save_steps=1000,
        apply_lora=True,
        # Files of tokens would lie in the cache of nobody.
        tokenize_once="off",
    )
    spare_deepspeed_import(config)
    experiment = _Rehearsal(config, train_dataset=GeneralDataset(build_rows()), model=build_model())
    experiment.context = StepContext(Step.TRAIN, events=_SilentSink())
    experiment.build()
    trainer = experiment.trainer
    assert trainer is not None
    trainer.remove_callback(CheckpointCallback)
    trainer.args.save_strategy = type(trainer.args.save_strategy)("no")
    if is_built_for_devices():
        _leave_backward_out(trainer)
    trainer.train()


def _leave_backward_out(trainer: Trainer) -> None:
    """The first backward pass starts a thread for each GPU that there is by then, and never another."""

    def step(model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        assert isinstance(trainer, RowTrainer)
        assert is_row_batch(inputs), "a job's samples share rows, and so do these"
        (row,) = inputs["rows"]
        with trainer._running(row):
            loss: Any = trainer.compute_loss(model, dict(row.inputs))
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        return loss.detach()  # type: ignore[no-any-return]

    trainer.training_step = step  # type: ignore[method-assign]
