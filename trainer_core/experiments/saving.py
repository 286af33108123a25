"""What is saved at the end of a training, and what belongs into every folder of saved weights."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer

from trainer_core.checkpoints import MARKER, mark_complete, mark_incomplete
from trainer_core.context import ArtifactFolder, ArtifactName, StepResult
from trainer_core.file_modes import share_files
from trainer_core.models.adapter_files import name_base_model
from trainer_core.trainers.checkpoint_callback import ARGUMENTS_PICKLE
from trainer_core.trainers.parallel import is_prepared, wait_for_ranks
from trainer_core.trainers.saved_weights import check_saved_weights
from trainer_core.types import JsonValue

_WEIGHTS_AND_SETTINGS = ("*.safetensors", "*.safetensors.index.json", "*config.json", "README.md")


@dataclass(frozen=True, slots=True)
class FolderFinisher:
    """Brings a folder that Trainer has saved into the shape that users get."""

    tokenizer: PreTrainedTokenizerBase | None
    model_name: str
    """Where the base was loaded from."""
    model_id: str | None
    """The base's public name; None: `model_name` is it."""
    trainer: Trainer
    """Whose model was saved."""

    def finish(self, folder: Path) -> None:
        """Adds the tokenizer, names the base model, and removes the pickle of Trainer's arguments.

        Raises IncompleteWeightsError for a folder that does not hold all weights of the model.
        """
        if self.trainer.model is not None:
            check_saved_weights(folder, model=self.trainer.model)
        (folder / ARGUMENTS_PICKLE).unlink(missing_ok=True)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        name_base_model(folder, loaded_from=self.model_name, model_id=self.model_id)
        share_files(folder)


def save_final_weights(
    trainer: Trainer, *, finisher: FolderFinisher, output_dir: Path, checkpoint: Path | None = None
) -> StepResult:
    """Saves adapter or model and tokenizer into `output_dir` itself, and tells what was made. Runs on every rank.

    `checkpoint` is what the training went on from; a sharded training that had ended there has its weights only there.
    """
    if trainer.is_world_process_zero():
        mark_incomplete(output_dir)
    if is_prepared(trainer):
        trainer.save_model(str(output_dir))
        wait_for_ranks()
    elif checkpoint is not None and trainer.is_world_process_zero():
        _copy_weights(checkpoint, output_dir)
    if not trainer.is_world_process_zero():
        return StepResult()
    finisher.finish(output_dir)
    mark_complete(output_dir, with_subfolders=False)
    name: ArtifactName = "adapter" if isinstance(trainer.model, PeftModel) else "model"
    saved = ArtifactFolder.of_files_in(output_dir, name=name)
    files = tuple(file for file in saved.files if file != MARKER)
    return StepResult(
        artifacts=(ArtifactFolder(name=saved.name, root=saved.root, files=files),), facts=_collect_facts(trainer)
    )


def _copy_weights(checkpoint: Path, output_dir: Path) -> None:
    for pattern in _WEIGHTS_AND_SETTINGS:
        for path in checkpoint.glob(pattern):
            shutil.copyfile(path, output_dir / path.name)


def _collect_facts(trainer: Trainer) -> dict[str, JsonValue]:
    state = trainer.state
    facts: dict[str, JsonValue] = {
        "global_step": state.global_step,
        "total_steps": state.max_steps,
        "epoch": state.epoch,
        "num_tokens": state.num_input_tokens_seen,
        "train_loss": _find_last(state.log_history, "train_loss"),
        "eval_loss": _find_last(state.log_history, "eval_loss"),
        "train_seconds": _find_last(state.log_history, "train_runtime"),
        "num_processes": trainer.args.world_size,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
    }
    if torch.cuda.is_available():
        facts["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return facts


def _find_last(log_history: list[dict[str, Any]], name: str) -> JsonValue:
    return next((record[name] for record in reversed(log_history) if name in record), None)
