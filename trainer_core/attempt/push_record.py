"""What of a job was pushed to a hub: written after the push, so that what is not recorded is pushed again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from trainer_core.atomic_file import write_atomically
from trainer_core.attempt.markers import DoneMarker, read_marker
from trainer_core.hub.targets import PushTarget
from trainer_core.workspace import Workspace


@dataclass(frozen=True, slots=True)
class PushRecord:
    """One thing that lies on a hub."""

    repository: str
    commit: str
    """The commit's sha."""
    url: str
    content: str
    """What was pushed, by a hash: another content is pushed again."""


def read_push_records(workspace: Workspace) -> dict[str, PushRecord]:
    """The newest push of each name, a step's or `checkpoint`; empty when there are none or the file is damaged."""
    try:
        return {name: PushRecord(**fields) for name, fields in json.loads(workspace.pushes.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def write_push_record(workspace: Workspace, name: str, record: PushRecord) -> None:
    """Adds or replaces one record, the file whole or not at all. Raises OSError."""
    records: Mapping[str, PushRecord] = {**read_push_records(workspace), name: record}
    write_atomically(workspace.pushes, json.dumps({key: asdict(each) for key, each in records.items()}, indent=1))


def hash_marker(marker: DoneMarker) -> str:
    """The hash of a done step's files."""
    document = [[folder.name, [[file.path, file.sha256] for file in folder.files]] for folder in marker.folders]
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def is_pushed(workspace: Workspace, target: PushTarget) -> bool:
    """Whether what the target's step made lies in the target's repository."""
    marker, record = read_marker(workspace, target.step), read_push_records(workspace).get(target.step.value)
    if marker is None or record is None or record.content != hash_marker(marker):
        return False
    return record.repository == target.repository or record.repository.endswith(f"/{target.repository}")
