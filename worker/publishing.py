"""Puts into storage what a job makes: a step's artifacts once it is done, checkpoints as they are saved."""

import json
import logging
import os
from pathlib import Path

from app.jobs.commands import NewArtifact
from trainer_core.attempt.markers import DoneMarker, read_marker
from trainer_core.beneath import NotBeneath, list_files_beneath, open_beneath, read_beneath
from trainer_core.checkpoints import read_completion
from trainer_core.enums import Step
from trainer_core.workspace import Workspace
from worker.restoring import list_stored_checkpoints
from worker.services import Services
from worker.storage_keys import (
    artifact_key,
    checkpoint_file_key,
    checkpoint_manifest_key,
    checkpoint_prefix,
    marker_key,
)

logger = logging.getLogger(__name__)

_UNPUBLISHED = frozenset({"training_args.bin"})
"""A pickle that may hold a token."""


class ArtifactDamaged(Exception):
    """A file is not what the step's done marker says; the attempt failed."""


class Publisher:
    """Publishes the outputs of one attempt. Every call may be repeated."""

    def __init__(self, workspace: Workspace, *, services: Services, job_id: str, attempt: int) -> None:
        self._workspace = workspace
        self._services = services
        self._storage = services.storage
        self._job_id = job_id
        self._attempt = attempt

    def publish_step(self, step: Step) -> None:
        """Publishes what a done step made, then its marker; nothing when that stands already, or when it is not done.

        Raises ArtifactDamaged, LeaseLost, OSError and the database's errors.
        """
        marker = read_marker(self._workspace, step)
        if marker is None or self._is_published(marker):
            return
        files = [self._put_file(marker, folder_name, path) for folder_name, path in _list_files(marker)]
        if files:
            with self._services.recording:
                self._services.jobs.record_artifacts(self._job_id, self._attempt, files)
        self._put(self._name(step), marker_key(self._job_id, step))
        if step is Step.TRAIN:
            # Nothing resumes from them any more.
            self._storage.delete_prefix(checkpoint_prefix(self._job_id))

    def publish_checkpoint(self, folder: Path) -> None:
        """Publishes a whole checkpoint, its list of files last, then removes older ones from storage.

        Nothing when the trainer has removed it meanwhile. Raises OSError.
        """
        if read_completion(folder) is None:
            return
        paths = [path for path in list_files_beneath(folder) if Path(path).name not in _UNPUBLISHED]
        older = list_stored_checkpoints(self._storage, self._job_id)
        root = folder.relative_to(self._workspace.root)
        try:
            for path in paths:
                self._put(f"{root}/{path}", checkpoint_file_key(self._job_id, folder.name, path))
        except NotBeneath as error:
            logger.warning("checkpoint %s of %s is not published: %s", folder.name, self._job_id, error)
            return
        except FileNotFoundError:
            # The trainer keeps only so many: this one has given way to a newer, which will be published.
            logger.info("checkpoint %s of %s was removed before it was published", folder.name, self._job_id)
            return
        manifest = json.dumps({"files": paths}).encode()
        self._storage.write(checkpoint_manifest_key(self._job_id, folder.name), [manifest])
        for name in older:
            if name != folder.name:
                self._storage.delete(checkpoint_manifest_key(self._job_id, name))
                self._storage.delete_prefix(f"{checkpoint_prefix(self._job_id)}/{name}")

    def _is_published(self, marker: DoneMarker) -> bool:
        key = marker_key(self._job_id, marker.step)
        if not self._storage.exists(key):
            return False
        with self._storage.open(key) as file:
            return file.read() == read_beneath(self._workspace.root, self._name(marker.step))

    def _name(self, step: Step) -> str:
        return self._workspace.marker(step).relative_to(self._workspace.root).as_posix()

    def _put_file(self, marker: DoneMarker, folder_name: str, path: str) -> NewArtifact:
        folder = next(folder for folder in marker.folders if folder.name == folder_name)
        file = next(file for file in folder.files if file.path == path)
        key = artifact_key(self._job_id, folder_name, path)
        try:
            num_bytes = self._put(f"{folder.root}/{path}", key, expected_bytes=file.num_bytes)
        except NotBeneath as error:
            raise ArtifactDamaged(f"{folder_name}/{path} is not published: {error}") from error
        return NewArtifact(
            name=folder_name,
            path=f"{folder_name}/{path}",
            num_bytes=num_bytes,
            sha256=file.sha256,
            storage_key=key,
        )

    def _put(self, path: str, key: str, *, expected_bytes: int | None = None) -> int:
        """Stores a regular file of the workspace; returns its size. Raises NotBeneath, ArtifactDamaged, OSError."""
        with open_beneath(self._workspace.root, path) as file:
            num_bytes = os.fstat(file.fileno()).st_size
            if expected_bytes is not None and num_bytes != expected_bytes:
                raise ArtifactDamaged(f"{path} has {num_bytes} bytes where its step wrote {expected_bytes}")
            # A job with a user of its own may put a link there between the look and the copy: then only what is open
            # counts, which costs a copy where the folder's storage would have made a hard link.
            is_foreign = self._services.settings.trainer_user is not None
            local = Path(f"/proc/self/fd/{file.fileno()}") if is_foreign else self._workspace.root / path
            self._storage.put_file(local, key)
        return num_bytes


def _list_files(marker: DoneMarker) -> list[tuple[str, str]]:
    return [
        (folder.name, file.path)
        for folder in marker.folders
        for file in folder.files
        if Path(file.path).name not in _UNPUBLISHED
    ]
