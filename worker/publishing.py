"""Puts into storage what a job makes: a step's artifacts once it is done, checkpoints as they are saved."""

import logging
from pathlib import Path

from app.jobs.commands import NewArtifact
from app.storage import DamagedContent, Written
from trainer_core.attempt.markers import DoneMarker, MarkedFile, MarkedFolder, read_marker
from trainer_core.beneath import NotBeneath, list_files_beneath, open_beneath, read_beneath
from trainer_core.checkpoints import read_completion
from trainer_core.enums import Step
from trainer_core.workspace import Workspace
from worker.services import Services
from worker.storage_keys import artifact_key, checkpoint_file_key, list_marker_attempts, marker_key, markers_prefix
from worker.stored_checkpoints import (
    StoredCheckpoint,
    dump_manifest,
    list_stored_checkpoints,
    remove_stored_checkpoint,
)
from worker.tracing import traced

logger = logging.getLogger(__name__)

_UNPUBLISHED = frozenset({"training_args.bin"})
"""A pickle that may hold a token."""
_NUM_KEPT_CHECKPOINTS = 2
"""The newest, and the one before in case the newest turns out to be damaged."""


class ArtifactDamaged(Exception):
    """A file is not what the step's done marker says; the attempt failed."""


class Publisher:
    """Publishes the outputs of one attempt, below keys of its own. Every call may be repeated.

    The rows in the database say which files are the job's; they are written by the attempt that holds the job only. So
    an attempt that lost it may go on writing for a while, and changes nothing that anybody reads.
    """

    def __init__(self, workspace: Workspace, *, services: Services, job_id: str, owner: str, attempt: int) -> None:
        self._workspace = workspace
        self._services = services
        self._storage = services.storage
        self._job_id = job_id
        self._owner = owner
        self._attempt = attempt
        self._published: dict[Step, DoneMarker] = {}

    @traced("job.publish")
    def publish_step(self, step: Step) -> None:
        """Publishes what a done step made, then its marker; nothing when that stands already, or when it is not done.

        Raises ArtifactDamaged, LeaseLost, OSError and the database's errors.
        """
        marker = read_marker(self._workspace, step)
        if marker is None or self._published.get(step) == marker:
            return
        if not self._is_published(marker):
            files = [self._put_file(marker, folder, file) for folder, file in _list_files(marker)]
            if files:
                with self._services.recording:
                    self._services.jobs.record_artifacts(self._job_id, self._attempt, files)
            self._put(self._name(step), marker_key(self._job_id, self._attempt, step))
            if step is Step.TRAIN:
                # Nothing resumes from them any more.
                self._remove_checkpoints(num_kept=0)
        self._published[step] = marker

    @traced("job.publish")
    def publish_checkpoint(self, folder: Path) -> None:
        """Publishes a whole checkpoint, its list of files last, then removes the oldest ones from storage.

        Nothing when the trainer has removed it meanwhile. Raises OSError.
        """
        if read_completion(folder) is None:
            return
        root = folder.relative_to(self._workspace.root)
        files: dict[str, Written] = {}
        try:
            for path in list_files_beneath(folder):
                if Path(path).name not in _UNPUBLISHED:
                    key = checkpoint_file_key(self._job_id, self._attempt, folder.name, path)
                    files[path] = self._put(f"{root}/{path}", key)
        except NotBeneath as error:
            logger.warning("checkpoint %s of %s is not published: %s", folder.name, self._job_id, error)
            return
        except FileNotFoundError:
            # The trainer keeps only so many: this one has given way to a newer, which will be published.
            logger.info("checkpoint %s of %s was removed before it was published", folder.name, self._job_id)
            return
        stored = StoredCheckpoint(self._job_id, self._attempt, folder.name)
        self._storage.write(stored.manifest_key, [dump_manifest(files)])
        self._remove_checkpoints(num_kept=_NUM_KEPT_CHECKPOINTS)

    def _remove_checkpoints(self, *, num_kept: int) -> None:
        """Removes all but the newest of this attempt and earlier ones: those of a later one are not ours to judge."""
        stored = list_stored_checkpoints(self._storage, self._job_id)
        mine = [checkpoint for checkpoint in stored if checkpoint.attempt <= self._attempt]
        for checkpoint in mine[: len(mine) - num_kept]:
            remove_stored_checkpoint(self._storage, checkpoint)

    def _is_published(self, marker: DoneMarker) -> bool:
        """True when the job's rows name just these files, and a later attempt would find the marker."""
        rows = {row.path: row for row in self._services.jobs.list_artifacts(self._owner, self._job_id)}
        for folder, file in _list_files(marker):
            row = rows.get(f"{folder.name}/{file.path}")
            if row is None or (row.num_bytes, row.sha256) != (file.num_bytes, file.sha256):
                return False
        local = read_beneath(self._workspace.root, self._name(marker.step))
        keys = self._storage.list(markers_prefix(self._job_id))
        for attempt in list_marker_attempts(self._job_id, keys, marker.step):
            try:
                return self._storage.read(marker_key(self._job_id, attempt, marker.step)) == local
            except FileNotFoundError:
                continue
        return False

    def _put_file(self, marker: DoneMarker, folder: MarkedFolder, file: MarkedFile) -> NewArtifact:
        key = artifact_key(self._job_id, self._attempt, folder.name, file.path)
        expected = Written(file.num_bytes, file.sha256)
        try:
            self._put(f"{folder.root}/{file.path}", key, expected=expected)
        except NotBeneath as error:
            raise ArtifactDamaged(f"{folder.name}/{file.path} is not published: {error}") from error
        except DamagedContent as error:
            # Without its marker the step runs again, on this host too.
            self._workspace.marker(marker.step).unlink(missing_ok=True)
            message = f"{folder.name}/{file.path} is no longer what the step {marker.step} wrote: {error}"
            raise ArtifactDamaged(message) from error
        return NewArtifact(
            name=folder.name,
            path=f"{folder.name}/{file.path}",
            num_bytes=file.num_bytes,
            sha256=file.sha256,
            storage_key=key,
        )

    def _name(self, step: Step) -> str:
        return self._workspace.marker(step).relative_to(self._workspace.root).as_posix()

    def _put(self, path: str, key: str, *, expected: Written | None = None) -> Written:
        """Stores a regular file of the workspace; returns what it holds. Raises NotBeneath, DamagedContent, OSError."""
        with open_beneath(self._workspace.root, path) as file:
            # A job with a user of its own may put a link there between the look and the copy: then only what is open
            # counts, which costs a copy where the folder's storage would have made a hard link.
            is_foreign = self._services.settings.trainer_user is not None
            local = Path(f"/proc/self/fd/{file.fileno()}") if is_foreign else self._workspace.root / path
            return self._storage.put_file(local, key, expected=expected)


def _list_files(marker: DoneMarker) -> list[tuple[MarkedFolder, MarkedFile]]:
    return [
        (folder, file) for folder in marker.folders for file in folder.files if Path(file.path).name not in _UNPUBLISHED
    ]
