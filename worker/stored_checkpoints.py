"""The checkpoints of a job that are whole in storage: which there are, and what each should hold."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from app.storage import Storage, Written
from worker.storage_keys import checkpoint_manifest_key, checkpoint_prefix, checkpoints_prefix


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """One whose manifest is there."""

    job_id: str
    attempt: int
    """Who wrote it; 0: a release whose keys had no attempt."""
    name: str
    """Of its folder, such as `checkpoint-500`."""

    @property
    def global_step(self) -> int:
        """The optimizer step in the name; −1 where there is none."""
        number = self.name.rpartition("-")[2]
        return int(number) if number.isdecimal() else -1

    @property
    def manifest_key(self) -> str:
        """Where the list of its files lies."""
        return checkpoint_manifest_key(self.job_id, self.attempt, self.name)


def list_stored_checkpoints(storage: Storage, job_id: str) -> list[StoredCheckpoint]:
    """Those that are whole, by step and then by attempt."""
    prefix = f"{checkpoints_prefix(job_id)}/"
    found = []
    for key in storage.list(prefix):
        attempt, _, name = key.removeprefix(prefix).rpartition("/")
        if name.endswith(".json") and (attempt == "" or attempt.isdecimal()):
            found.append(StoredCheckpoint(job_id, int(attempt or 0), name.removesuffix(".json")))
    return sorted(found, key=lambda each: (each.global_step, each.attempt))


def dump_manifest(files: Mapping[str, Written]) -> bytes:
    """The manifest of a checkpoint with these files, by path."""
    described = {path: {"num_bytes": file.num_bytes, "sha256": file.sha256} for path, file in files.items()}
    return json.dumps({"files": described}).encode()


def read_manifest(storage: Storage, checkpoint: StoredCheckpoint) -> dict[str, Written | None]:
    """What each file should be; None where an older release wrote down its name only.

    Raises FileNotFoundError; ValueError, KeyError or TypeError for a manifest that is damaged.
    """
    files = json.loads(storage.read(checkpoint.manifest_key))["files"]
    if isinstance(files, list):
        return dict.fromkeys(map(str, files))
    return {path: Written(int(file["num_bytes"]), str(file["sha256"])) for path, file in files.items()}


def remove_stored_checkpoint(storage: Storage, checkpoint: StoredCheckpoint) -> None:
    """Removes the manifest, then the files: what is half removed counts as no checkpoint."""
    storage.delete(checkpoint.manifest_key)
    storage.delete_prefix(checkpoint_prefix(checkpoint.job_id, checkpoint.attempt, checkpoint.name))
