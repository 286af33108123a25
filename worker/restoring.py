"""Brings back what earlier attempts at a job finished: done steps, and the newest checkpoint of an unfinished one."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from app.storage import DamagedContent, Storage, Written
from trainer_core.atomic_file import write_atomically
from trainer_core.attempt.markers import DoneMarker, has_all_files, read_marker
from trainer_core.checkpoints import mark_complete, newest_complete_checkpoint, read_completion
from trainer_core.enums import Step
from trainer_core.job_spec import JobSpec
from trainer_core.workspace import Workspace
from worker.storage_keys import (
    artifact_key,
    checkpoint_file_key,
    list_marker_attempts,
    marker_key,
    markers_prefix,
)
from worker.stored_checkpoints import StoredCheckpoint, list_stored_checkpoints, read_manifest
from worker.tracing import traced

logger = logging.getLogger(__name__)

_NUM_LISTINGS = 3
"""How often the checkpoints are looked up: one may give way to a newer one while it is fetched."""


class AttemptRestorer:
    """Restores one job's earlier work from storage, every file verified by its size and sha256.

    `check` is called between files and raises to give up; `warn` tells the job's owner of what is damaged.
    """

    def __init__(
        self,
        spec: JobSpec,
        *,
        workspace: Workspace,
        storage: Storage,
        check: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self._spec = spec
        self._workspace = workspace
        self._storage = storage
        self._check = check
        self._warn = warn

    @traced("job.restore")
    def restore(self) -> None:
        """Fetches what this host lacks. What is gone or damaged is left out: its step runs again. Raises OSError."""
        markers = self._storage.list(markers_prefix(self._spec.job_id))
        for step in self._spec.steps:
            if not self._restore_step(step, markers):
                break
        if Step.TRAIN in self._spec.steps and not self._workspace.marker(Step.TRAIN).exists():
            self._restore_checkpoint()

    def _restore_step(self, step: Step, markers: list[str]) -> bool:
        """Returns whether the step is done on this host now."""
        local = read_marker(self._workspace, step)
        if local is not None and has_all_files(self._workspace, local):
            return True
        damage = None
        for attempt in list_marker_attempts(self._spec.job_id, markers, step):
            try:
                if self._restore_step_of(step, attempt):
                    return True
            except FileNotFoundError:
                continue
            except (DamagedContent, ValueError, KeyError, TypeError) as error:
                damage = error
        if damage is not None:
            self._warn(f"what {step} had made is damaged in storage, so it runs again: {damage}")
        return False

    def _restore_step_of(self, step: Step, attempt: int) -> bool:
        marker = DoneMarker.from_json(self._storage.read(marker_key(self._spec.job_id, attempt, step)).decode())
        for folder in marker.folders:
            for file in folder.files:
                self._check()
                path = self._workspace.root / folder.root / file.path
                key = artifact_key(self._spec.job_id, attempt, folder.name, file.path)
                self._storage.fetch_file(key, path, expected=Written(file.num_bytes, file.sha256))
        if not has_all_files(self._workspace, marker):
            return False
        if step is Step.TRAIN:
            # What counts among the outputs of training is what carries this mark; it is no artifact itself.
            mark_complete(self._workspace.outputs, with_subfolders=False)
        write_atomically(self._workspace.marker(step), marker.to_json())
        return True

    def _restore_checkpoint(self) -> None:
        """Takes the newest checkpoint that is whole and sound, unless this host has one that is as new."""
        damaged: dict[StoredCheckpoint, str] = {}
        for _ in range(_NUM_LISTINGS):
            vanished = False
            for checkpoint in reversed(list_stored_checkpoints(self._storage, self._spec.job_id)):
                local = newest_complete_checkpoint(self._workspace.outputs)
                if local is not None and _get_global_step(local) >= checkpoint.global_step:
                    return
                if checkpoint in damaged:
                    continue
                try:
                    self._fetch_checkpoint(checkpoint)
                    return
                except FileNotFoundError:
                    vanished = True
                except (DamagedContent, ValueError, KeyError, TypeError) as error:
                    damaged[checkpoint] = str(error)
                    self._warn(f"{checkpoint.name} is damaged in storage and is left out: {error}")
            if not vanished:
                break
        if damaged:
            self._warn("no earlier checkpoint is whole: training begins at its start")

    def _fetch_checkpoint(self, checkpoint: StoredCheckpoint) -> None:
        target = self._workspace.outputs / checkpoint.name
        unfinished = self._workspace.outputs / f".{checkpoint.name}.restoring"
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            for path, expected in read_manifest(self._storage, checkpoint).items():
                self._check()
                key = checkpoint_file_key(checkpoint.job_id, checkpoint.attempt, checkpoint.name, path)
                self._storage.fetch_file(key, unfinished / path, expected=expected)
            if read_completion(unfinished) is None:
                raise ValueError("its files are not those that its own marker lists")
            shutil.rmtree(target, ignore_errors=True)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _get_global_step(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1
