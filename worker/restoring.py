"""Brings back what earlier attempts at a job finished: done steps, and the newest checkpoint of an unfinished one."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from app.storage import Storage
from trainer_core.atomic_file import write_atomically
from trainer_core.attempt.markers import DoneMarker, has_all_files, read_marker
from trainer_core.checkpoints import mark_complete, newest_complete_checkpoint, read_completion
from trainer_core.enums import Step
from trainer_core.job_spec import JobSpec
from trainer_core.workspace import Workspace
from worker.storage_keys import (
    artifact_key,
    checkpoint_file_key,
    checkpoint_manifest_key,
    checkpoint_prefix,
    marker_key,
)
from worker.tracing import traced

logger = logging.getLogger(__name__)


class AttemptRestorer:
    """Restores one job's earlier work from storage. `check` is called between files and raises to give up."""

    def __init__(self, spec: JobSpec, *, workspace: Workspace, storage: Storage, check: Callable[[], None]) -> None:
        self._spec = spec
        self._workspace = workspace
        self._storage = storage
        self._check = check

    @traced("job.restore")
    def restore(self) -> None:
        """Fetches what this host lacks. What is gone or damaged is left out: its step runs again. Raises OSError."""
        for step in self._spec.steps:
            if not self._restore_step(step):
                break
        if Step.TRAIN in self._spec.steps and not self._workspace.marker(Step.TRAIN).exists():
            self._restore_checkpoint()

    def _restore_step(self, step: Step) -> bool:
        """Returns whether the step is done on this host now."""
        local = read_marker(self._workspace, step)
        if local is not None and has_all_files(self._workspace, local):
            return True
        key = marker_key(self._spec.job_id, step)
        try:
            with self._storage.open(key) as file:
                marker = DoneMarker.from_json(file.read().decode())
            self._fetch_outputs(marker)
        except FileNotFoundError:
            return False
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s of %s is not restored: %s", step, self._spec.job_id, error)
            return False
        if not has_all_files(self._workspace, marker):
            return False
        if step is Step.TRAIN:
            # What counts among the outputs of training is what carries this mark; it is no artifact itself.
            mark_complete(self._workspace.outputs, with_subfolders=False)
        write_atomically(self._workspace.marker(step), marker.to_json())
        return True

    def _fetch_outputs(self, marker: DoneMarker) -> None:
        for folder in marker.folders:
            for file in folder.files:
                self._check()
                path = self._workspace.root / folder.root / file.path
                if not path.is_file() or path.stat().st_size != file.num_bytes:
                    self._storage.fetch_file(artifact_key(self._spec.job_id, folder.name, file.path), path)

    def _restore_checkpoint(self) -> None:
        stored = list_stored_checkpoints(self._storage, self._spec.job_id)
        if not stored:
            return
        newest = stored[-1]
        local = newest_complete_checkpoint(self._workspace.outputs)
        if local is not None and _get_global_step(local.name) >= _get_global_step(newest):
            return
        target = self._workspace.outputs / newest
        unfinished = self._workspace.outputs / f".{newest}.restoring"
        shutil.rmtree(unfinished, ignore_errors=True)
        with self._storage.open(checkpoint_manifest_key(self._spec.job_id, newest)) as file:
            paths = json.load(file)["files"]
        for path in paths:
            self._check()
            self._storage.fetch_file(checkpoint_file_key(self._spec.job_id, newest, path), unfinished / path)
        if read_completion(unfinished) is None:
            logger.warning("checkpoint %s of %s is damaged in storage and left out", newest, self._spec.job_id)
            shutil.rmtree(unfinished)
            return
        shutil.rmtree(target, ignore_errors=True)
        unfinished.rename(target)


def list_stored_checkpoints(storage: Storage, job_id: str) -> list[str]:
    """Returns the names of the checkpoints that are whole in storage, by step."""
    prefix = f"{checkpoint_prefix(job_id)}/"
    names = [key.removeprefix(prefix) for key in storage.list(prefix)]
    manifests = [Path(name).stem for name in names if "/" not in name and name.endswith(".json")]
    return sorted(manifests, key=_get_global_step)


def _get_global_step(name: str) -> int:
    number = name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1
