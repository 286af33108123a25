"""Which folders of saved weights are whole: a marker with every file's size, written last."""

import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from trainer_core.beneath import check_relative, read_beneath

MARKER = "COMPLETE"
ADAPTER_CONFIG = "adapter_config.json"
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True, slots=True)
class Completion:
    """What the marker of a whole folder says."""

    folder: Path
    saved_at: float
    """Unix seconds; within one `output_dir` later than every marker written before it, whatever the clock does."""

    @property
    def global_step(self) -> int | None:
        """The optimizer step in a checkpoint's name; None for any other folder."""
        match = _CHECKPOINT_NAME.fullmatch(self.folder.name)
        return int(match.group(1)) if match else None


def mark_complete(folder: Path, *, with_subfolders: bool = True) -> Completion:
    """Writes every file of the folder through to the disk, then the marker, by rename.

    `with_subfolders=False` vouches for the files directly in the folder only: the final model in `output_dir`, beside
    the checkpoints. A crash at any point leaves a folder that counts as incomplete.
    """
    siblings = folder.parent if _CHECKPOINT_NAME.fullmatch(folder.name) else folder
    latest = max((each.saved_at for each in list_complete(siblings)), default=0.0)
    saved_at = max(time.time(), latest + 0.001)
    files = _list_files(folder, with_subfolders=with_subfolders)
    for path in (*files, *{path.parent for path in files}):
        _sync(path)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    unfinished = folder / f".{MARKER}.tmp"
    unfinished.write_text(json.dumps({"saved_at": saved_at, "files": sizes}, indent=1))
    _sync(unfinished)
    unfinished.replace(folder / MARKER)
    _sync(folder)
    return Completion(folder=folder, saved_at=saved_at)


def read_completion(folder: Path) -> Completion | None:
    """None when the folder has no marker, or a file that the marker lists is missing or of another size."""
    try:
        marker = json.loads(read_beneath(folder, MARKER))
        sizes = {str(name): int(size) for name, size in marker["files"].items()}
        saved_at = float(marker["saved_at"])
        is_whole = all((folder / check_relative(name)).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return Completion(folder=folder, saved_at=saved_at) if is_whole and sizes else None


def mark_incomplete(folder: Path) -> None:
    """Takes the marker away, before the folder's files are written anew."""
    (folder / MARKER).unlink(missing_ok=True)


def list_checkpoints(output_dir: Path) -> list[Path]:
    """All `checkpoint-<n>` folders, whole or not, by step."""
    if not output_dir.is_dir():
        return []
    found = [(match, path) for path in output_dir.iterdir() if (match := _CHECKPOINT_NAME.fullmatch(path.name))]
    return [path for match, path in sorted(found, key=lambda each: int(each[0].group(1))) if path.is_dir()]


def list_complete(output_dir: Path) -> list[Completion]:
    """The whole checkpoints, and `output_dir` itself if it holds a whole final model; oldest first."""
    completions = [read_completion(folder) for folder in (*list_checkpoints(output_dir), output_dir)]
    return sorted((each for each in completions if each is not None), key=lambda each: each.saved_at)


def newest_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The checkpoint to resume from: the one saved last of those that are whole."""
    checkpoints = [each for each in list_complete(Path(output_dir)) if each.global_step is not None]
    return checkpoints[-1].folder if checkpoints else None


def newest_complete_adapter(output_dir: str | Path) -> Path | None:
    """The whole LoRA adapter saved last: the final one in `output_dir`, else a checkpoint's."""
    adapters = [each for each in list_complete(Path(output_dir)) if (each.folder / ADAPTER_CONFIG).is_file()]
    return adapters[-1].folder if adapters else None


def remove_incomplete_checkpoints(output_dir: Path) -> list[Path]:
    """Deletes checkpoint folders that a killed run left half-written, and returns their paths."""
    removed = [folder for folder in list_checkpoints(output_dir) if read_completion(folder) is None]
    for folder in removed:
        shutil.rmtree(folder)
    return removed


def remove_old_checkpoints(output_dir: Path, *, num_kept: int) -> None:
    """Deletes whole checkpoints but the `num_kept` saved last; 0 keeps all. The marker goes first, so that a crash
    amid the deletion leaves no folder that looks whole."""
    if num_kept <= 0:
        return
    checkpoints = [each.folder for each in list_complete(output_dir) if each.global_step is not None]
    for folder in checkpoints[:-num_kept]:
        mark_incomplete(folder)
        shutil.rmtree(folder)


def _list_files(folder: Path, *, with_subfolders: bool) -> list[Path]:
    paths = folder.rglob("*") if with_subfolders else folder.iterdir()
    return sorted(path for path in paths if path.is_file() and path.name not in (MARKER, f".{MARKER}.tmp"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
