"""The record of what was fetched from a hub for a job: made once on a host, before the steps that load offline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

from trainer_core.atomic_file import write_atomically
from trainer_core.config import Config
from trainer_core.enums import Step
from trainer_core.job_spec import StepInputs
from trainer_core.workspace import Workspace


@dataclass(frozen=True, slots=True)
class StagedRecord:
    """Local folders of a job's hub inputs; None for what the job does not use."""

    model: str | None = None
    tokenizer: str | None = None
    adapter: str | None = None
    revisions: Mapping[str, str] = field(default_factory=dict)
    """The commit of each repository that was fetched."""


class StagedInputs(Protocol):
    """What staging answers: paths of local folders."""

    @property
    def model(self) -> object: ...
    @property
    def tokenizer(self) -> object: ...
    @property
    def adapter(self) -> object: ...
    @property
    def revisions(self) -> Mapping[str, str]: ...


class StageFunction(Protocol):
    """Fetches what the steps need. Raises ModelLoadError, NetworkError, OSError."""

    def __call__(self, config: Config, steps: Sequence[Step], *, inputs: StepInputs) -> StagedInputs: ...


def stage_from_hub(config: Config, steps: Sequence[Step], *, inputs: StepInputs) -> StagedInputs:
    """Fetches what the steps need. Raises ModelLoadError, NetworkError, OSError."""
    # It imports huggingface_hub, which the pipeline, a reader of the record, must not.
    from trainer_core.staging import stage_hub_inputs

    return stage_hub_inputs(config, steps, inputs=inputs)


def write_staged_record(workspace: Workspace, staged: StagedInputs) -> StagedRecord:
    """Writes the record whole or not at all. Raises OSError."""
    record = StagedRecord(
        model=_as_path(staged.model),
        tokenizer=_as_path(staged.tokenizer),
        adapter=_as_path(staged.adapter),
        revisions=dict(staged.revisions),
    )
    write_atomically(workspace.staged, json.dumps(asdict(record), indent=1))
    return record


def read_staged_record(workspace: Workspace) -> StagedRecord | None:
    """Returns the record if it is there and its folders are; else None."""
    try:
        record = StagedRecord(**json.loads(workspace.staged.read_text()))
    except (OSError, ValueError, TypeError):
        return None
    folders = (record.model, record.tokenizer, record.adapter)
    return record if all(Path(folder).is_dir() for folder in folders if folder is not None) else None


def are_inputs_staged(workspace: Workspace) -> bool:
    """Says whether the steps may load offline."""
    return read_staged_record(workspace) is not None


def _as_path(value: object) -> str | None:
    return None if value is None else str(value)
