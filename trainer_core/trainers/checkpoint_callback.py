"""Makes what Trainer saved a checkpoint that can be relied on, and keeps the newest of them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainer_core.checkpoints import mark_complete, remove_old_checkpoints
from trainer_core.context import EventSink
from trainer_core.trainers.parallel import wait_for_ranks

ARGUMENTS_PICKLE = "training_args.bin"
"""Trainer's pickle of its arguments: never needed again, and the place where tokens used to lie."""


class CheckpointCallback(TrainerCallback):
    """After each save: finishes the folder, marks it complete, tells so, and only then deletes older ones."""

    def __init__(self, *, events: EventSink, save_total_limit: int, finish_folder: Callable[[Path], None]) -> None:
        """`finish_folder` adds and mends what belongs into a folder of saved weights; `save_total_limit` 0: all."""
        self._events = events
        self._save_total_limit = save_total_limit
        self._finish_folder = finish_folder

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Runs on every rank; ranks save random states of their own, so that rank 0 waits for all of them."""
        wait_for_ranks()
        if not state.is_world_process_zero:
            return
        output_dir = Path(str(args.output_dir))
        folder = output_dir / f"checkpoint-{state.global_step}"
        self._finish_folder(folder)
        mark_complete(folder)
        self._events.emit(
            "checkpoint.saved",
            message=f"saved the checkpoint of step {state.global_step}",
            data={"global_step": state.global_step, "path": os.path.relpath(folder)},
        )
        remove_old_checkpoints(output_dir, num_kept=self._save_total_limit)
