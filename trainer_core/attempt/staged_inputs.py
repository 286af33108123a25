"""The record of what was fetched from a hub for a job: made once on a host, before the steps that load offline."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from trainer_core.atomic_file import write_atomically
from trainer_core.attempt.model_code import check_model_code
from trainer_core.config import Config
from trainer_core.enums import Step
from trainer_core.hub.targets import PushTarget, list_push_targets
from trainer_core.job_spec import StepInputs
from trainer_core.workspace import Workspace


@dataclass(frozen=True, slots=True)
class StagedRecord:
    """Local folders of a job's hub inputs; None for what the job does not use."""

    model: str | None = None
    tokenizer: str | None = None
    adapter: str | None = None
    calibration: str | None = None
    """A file: the rows of `quantization_dataset_id`."""
    revisions: Mapping[str, str] = field(default_factory=dict)
    """The commit of each repository that was fetched."""
    push_targets: tuple[PushTarget, ...] = ()
    """The repositories that the steps push to, each made and open to the job's token."""

    @property
    def folders(self) -> tuple[str, ...]:
        """Every folder of the record."""
        return tuple(folder for folder in (self.model, self.tokenizer, self.adapter) if folder is not None)


class StagedInputs(Protocol):
    """What staging answers: paths of local folders, and of the file of calibration rows."""

    @property
    def model(self) -> object: ...
    @property
    def tokenizer(self) -> object: ...
    @property
    def adapter(self) -> object: ...
    @property
    def calibration(self) -> object: ...
    @property
    def revisions(self) -> Mapping[str, str]: ...


class StageFunction(Protocol):
    """Fetches what the steps need. Raises ModelLoadError, PushError, NetworkError, OSError."""

    def __call__(self, config: Config, steps: Sequence[Step], *, inputs: StepInputs) -> StagedInputs: ...


def stage_from_hub(config: Config, steps: Sequence[Step], *, inputs: StepInputs) -> StagedRecord:
    """Makes sure that the job may push what it will make, then fetches what its steps need.

    For a process of a job alone: it bounds how long this process waits for any answer of a hub. Raises PushError,
    ModelLoadError, NetworkError, OSError.
    """
    # They import huggingface_hub, which the pipeline, a reader of the record, must not.
    from trainer_core.hub.access import prepare_repositories
    from trainer_core.hub.session import bound_waiting
    from trainer_core.staging import stage_hub_inputs

    bound_waiting()
    targets = prepare_repositories(list_push_targets(config, steps), token=config.huggingface_hub_token)
    record = _as_record(stage_hub_inputs(config, steps, inputs=inputs))
    check_model_code(config, record)
    return replace(record, push_targets=targets)


def write_staged_record(workspace: Workspace, staged: StagedInputs) -> StagedRecord:
    """Writes the record whole or not at all. Raises OSError."""
    record = staged if isinstance(staged, StagedRecord) else _as_record(staged)
    write_atomically(workspace.staged, json.dumps(asdict(record), indent=1))
    return record


def read_staged_record(workspace: Workspace) -> StagedRecord | None:
    """Returns the record if it is there and what it names is; else None."""
    try:
        fields = json.loads(workspace.staged.read_text())
        targets = tuple(_read_target(target) for target in fields.pop("push_targets", ()))
        record = StagedRecord(**fields, push_targets=targets)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    has_rows = record.calibration is None or Path(record.calibration).is_file()
    return record if has_rows and all(Path(folder).is_dir() for folder in record.folders) else None


def are_inputs_staged(workspace: Workspace) -> bool:
    """Says whether the steps may load offline."""
    return read_staged_record(workspace) is not None


def _as_record(staged: StagedInputs) -> StagedRecord:
    return StagedRecord(
        model=_as_path(staged.model),
        tokenizer=_as_path(staged.tokenizer),
        adapter=_as_path(staged.adapter),
        calibration=_as_path(staged.calibration),
        revisions=dict(staged.revisions),
    )


def _read_target(fields: Mapping[str, Any]) -> PushTarget:
    return PushTarget(**{**fields, "step": Step(fields["step"])})


def _as_path(value: object) -> str | None:
    return None if value is None else str(value)
