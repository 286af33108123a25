"""Running a trainer from the beginning, or on from a checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import Trainer, TrainerState
from transformers.trainer import OPTIMIZER_NAME, TRAINER_STATE_NAME
from transformers.training_args import OptimizerNames

from trainer_core.errors import ConfigError, Problem
from trainer_core.trainers.optimizer_choice import find_state_classes
from trainer_core.trainers.parallel import is_prepared, keeps_weights_in_shards
from trainer_core.trainers.tracking.callback import TrackingCallback

_FSDP = "fsdp_strategy"
_STAGE_3 = "deepspeed_stage=3"
_STAGES_1_2 = "deepspeed_stage 1 or 2"
_PLAIN = "whole weights in each process"


def run_training(trainer: Trainer, *, resume_from: Path | None) -> None:
    """Trains to the end. Resuming restores weights, optimizer, schedule, random states and the place in the data.

    Runs of trackers are ended whatever happens; the training ends in the weights that are to be used.
    """
    has_succeeded = False
    try:
        with _saving_without_checksums():
            _run(trainer, resume_from=resume_from)
        has_succeeded = True
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TrackingCallback):
                callback.close(has_succeeded=has_succeeded)
    _take_averaged_weights(trainer)


@contextmanager
def _saving_without_checksums() -> Iterator[None]:
    """torch computes checksums of what it saves, for half of the time that saving takes, and never looks at them."""
    computes = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(computes)


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
    check_strategy(trainer, resume_from)
    # torch reads classes that it knows only; these are from the package that the optimizer itself is from.
    with torch.serialization.safe_globals(find_state_classes(str(OptimizerNames(trainer.args.optim).value))):
        trainer.train(resume_from_checkpoint=str(resume_from))


def check_strategy(trainer: Trainer, checkpoint: Path) -> None:
    """The optimizer's state is laid out as the strategy wants it. Raises ConfigError for a checkpoint of another one:
    Trainer would go on without that state, or end in an error of the library that reads it."""
    saved, wanted = _name_saved_strategy(checkpoint), _name_strategy(trainer)
    if saved is None or saved == wanted:
        return
    param = _FSDP if _FSDP in (saved, wanted) else "deepspeed_stage"
    message = (
        f"{checkpoint.name} was saved by a training with {saved}, and this one is with {wanted}: the optimizer's state "
        "cannot be carried over; train as before, or begin anew in another output_dir"
    )
    raise ConfigError([Problem(message, param, "conflict")])


def _name_strategy(trainer: Trainer) -> str:
    if trainer.is_fsdp_enabled:
        return _FSDP
    if trainer.is_deepspeed_enabled:
        return _STAGE_3 if keeps_weights_in_shards(trainer.args) else _STAGES_1_2
    return _PLAIN


def _name_saved_strategy(checkpoint: Path) -> str | None:
    """By what lies in a checkpoint; None: nothing that tells."""
    if any(checkpoint.glob("optimizer_*/.metadata")) or (checkpoint / "optimizer.bin").is_file():
        return _FSDP
    if any(checkpoint.glob("global_step*/zero_pp_rank_*_model_states.pt")):
        return _STAGE_3
    if any(checkpoint.glob("global_step*/*_optim_states.pt")):
        return _STAGES_1_2
    return _PLAIN if (checkpoint / OPTIMIZER_NAME).is_file() else None


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
