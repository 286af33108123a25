"""Running a trainer from the beginning, or on from a checkpoint."""

from pathlib import Path

import torch
from transformers import Trainer, TrainerState
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME
from transformers.training_args import OptimizerNames

from trainer_core.trainers.optimizer_choice import find_state_classes
from trainer_core.trainers.parallel import is_prepared
from trainer_core.trainers.tracking.callback import TrackingCallback


def run_training(trainer: Trainer, *, resume_from: Path | None) -> None:
    """Trains to the end. Resuming restores weights, optimizer, schedule, random states and the place in the data.

    Runs of trackers are ended whatever happens; the training ends in the weights that are to be used.
    """
    has_succeeded = False
    try:
        _run(trainer, resume_from=resume_from)
        has_succeeded = True
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TrackingCallback):
                callback.close(has_succeeded=has_succeeded)
    _take_averaged_weights(trainer)


def _run(trainer: Trainer, *, resume_from: Path | None) -> None:
    if resume_from is None:
        trainer.train()
        return
    state = TrainerState.load_from_json(str(resume_from / TRAINER_STATE_NAME))
    if state.global_step >= _count_total_steps(trainer):
        # Trainer would take one step more than asked for. Shards cannot be loaded before they are made: what is saved
        # in the end is then the checkpoint's own.
        if is_prepared(trainer):
            trainer._load_from_checkpoint(str(resume_from))
        trainer.state = state
        _load_averages(trainer, checkpoint=resume_from)
        return
    # torch reads classes that it knows only; these are from the package that the optimizer itself is from.
    with torch.serialization.safe_globals(find_state_classes(str(OptimizerNames(trainer.args.optim).value))):
        trainer.train(resume_from_checkpoint=str(resume_from))


def _count_total_steps(trainer: Trainer) -> int:
    values = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    return int(values[-1])


def _load_averages(trainer: Trainer, *, checkpoint: Path) -> None:
    """What `_take_averaged_weights` needs of a training that had ended before."""
    if str(OptimizerNames(trainer.args.optim).value).startswith("schedule_free"):
        optimizer = trainer.create_optimizer()
        optimizer.load_state_dict(torch.load(checkpoint / OPTIMIZER_NAME, weights_only=True))


def _take_averaged_weights(trainer: Trainer) -> None:
    """A schedule-free optimizer trains on other weights than those it is to be judged by: the averaged ones."""
    switch = getattr(trainer.optimizer, "eval", None)
    if callable(switch):
        switch()
