"""Done markers: the proof that a step is finished and that its outputs are whole."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self, get_args

from trainer_core.atomic_file import write_atomically
from trainer_core.beneath import check_relative, read_beneath
from trainer_core.context import ArtifactFolder, ArtifactName, StepResult
from trainer_core.enums import Step
from trainer_core.job_spec import JobSpec
from trainer_core.types import JsonValue
from trainer_core.workspace import Workspace

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class MarkedFile:
    """One file that a step made."""

    path: str
    """Relative to its folder."""
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class MarkedFolder:
    """The files of one artifact folder."""

    name: str
    root: str
    """Relative to the workspace, so that a workspace may lie elsewhere on another host."""
    files: tuple[MarkedFile, ...]


@dataclass(frozen=True, slots=True)
class DoneMarker:
    """What a finished step took and made."""

    step: Step
    inputs_hash: str
    """Of the Config, the input files and the outputs of the earlier steps: when it changes, the step must run again."""
    folders: tuple[MarkedFolder, ...]
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    finished_at: float = 0.0
    """Unix seconds."""

    def to_json(self) -> str:
        """Returns the marker as one JSON document."""
        return json.dumps(asdict(self), ensure_ascii=False, default=str, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a marker back. Raises ValueError, KeyError or TypeError for a document that is none."""
        fields = json.loads(text)
        folders = tuple(
            MarkedFolder(
                name=_check_name(folder["name"]),
                root=check_relative(folder["root"]),
                files=tuple(_read_file(file) for file in folder["files"]),
            )
            for folder in fields["folders"]
        )
        return cls(
            step=Step(fields["step"]),
            inputs_hash=fields["inputs_hash"],
            folders=folders,
            facts=fields["facts"],
            finished_at=fields["finished_at"],
        )


def _read_file(fields: Mapping[str, JsonValue]) -> MarkedFile:
    return MarkedFile(path=check_relative(fields["path"]), num_bytes=fields["num_bytes"], sha256=fields["sha256"])


def _check_name(name: str) -> str:
    """A marker is read from a folder that users' code writes to: its names become paths and keys of the storage."""
    if name not in get_args(ArtifactName):
        raise ValueError(f"a step makes no {name!r}")
    return name


def write_marker(workspace: Workspace, *, spec: JobSpec, step: Step, result: StepResult) -> DoneMarker:
    """Hashes all that the step made, flushes it to the disk and writes the marker, last.

    Raises OSError; ValueError when an artifact lies outside the workspace.
    """
    marker = DoneMarker(
        step=step,
        inputs_hash=hash_inputs(workspace, spec=spec, step=step),
        folders=tuple(_mark_folder(folder, workspace) for folder in result.artifacts),
        facts=dict(result.facts),
        finished_at=time.time(),
    )
    write_atomically(workspace.marker(step), marker.to_json())
    return marker


def read_marker(workspace: Workspace, step: Step) -> DoneMarker | None:
    """Returns the marker of a step, or None when there is no readable one; says nothing of its validity."""
    try:
        path = workspace.marker(step)
        return DoneMarker.from_json(read_beneath(path.parent, path.name).decode())
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_done_marker(workspace: Workspace, *, spec: JobSpec, step: Step) -> DoneMarker | None:
    """Returns the marker of a step that need not run: same inputs, every file there at its size (not re-read)."""
    marker = read_marker(workspace, step)
    if marker is None or marker.inputs_hash != hash_inputs(workspace, spec=spec, step=step):
        return None
    return marker if has_all_files(workspace, marker) else None


def has_all_files(workspace: Workspace, marker: DoneMarker) -> bool:
    """Says whether every file of the marker is there at its size."""
    return all(
        _size_of(workspace.root / folder.root / file.path) == file.num_bytes
        for folder in marker.folders
        for file in folder.files
    )


def hash_inputs(workspace: Workspace, *, spec: JobSpec, step: Step) -> str:
    """Returns the sha256 of all that decides what the step makes: Config, plugins, input files by name and size, and
    what the job's earlier steps made.
    """
    earlier = spec.steps[: spec.steps.index(step)] if step in spec.steps else ()
    document = {
        "step": step,
        "config": dict(spec.config),
        "plugins": spec.plugins,
        "inputs": {
            name: _describe_path(Path(path), workspace)
            for name, path in asdict(spec.inputs).items()
            if path is not None
        },
        "earlier": [_describe_outputs(read_marker(workspace, other)) for other in earlier],
    }
    return hashlib.sha256(json.dumps(document, sort_keys=True, default=str).encode()).hexdigest()


def _describe_outputs(marker: DoneMarker | None) -> JsonValue:
    return None if marker is None else [asdict(folder) for folder in marker.folders]


def _describe_path(path: Path, workspace: Workspace) -> JsonValue:
    name = str(path.relative_to(workspace.root)) if path.is_relative_to(workspace.root) else str(path)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return [name, [[str(file.relative_to(path)), file.stat().st_size] for file in files]]
    return [name, _size_of(path)]


def _size_of(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _mark_folder(folder: ArtifactFolder, workspace: Workspace) -> MarkedFolder:
    root = folder.root.resolve().relative_to(workspace.root.resolve())
    return MarkedFolder(
        name=folder.name,
        root=str(root),
        files=tuple(_mark_file(folder.root, relative_path) for relative_path in folder.files),
    )


def _mark_file(root: Path, relative_path: str) -> MarkedFile:
    digest = hashlib.sha256()
    num_bytes = 0
    with (root / relative_path).open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
        os.fsync(file.fileno())
    return MarkedFile(path=relative_path, num_bytes=num_bytes, sha256=digest.hexdigest())
