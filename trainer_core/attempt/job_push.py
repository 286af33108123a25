"""Pushes what the steps of one attempt at a job make: checkpoints as they come, results when they are done."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from trainer_core.attempt.markers import DoneMarker, read_marker
from trainer_core.attempt.public_names import list_public_names
from trainer_core.attempt.push_record import PushRecord, hash_marker, write_push_record
from trainer_core.attempt.staged_inputs import StagedRecord, read_staged_record
from trainer_core.config import Config, Step
from trainer_core.context import EventSink
from trainer_core.hub.card import CardKind, CardSubject
from trainer_core.hub.files import has_adapter, snapshot_push_files
from trainer_core.hub.pushing import Push, describe_push, push_folder
from trainer_core.hub.targets import PushTarget
from trainer_core.hub.uploading import PushedCommit
from trainer_core.job_spec import JobSpec
from trainer_core.redaction import Redactor
from trainer_core.workspace import Workspace

CHECKPOINT = "checkpoint"
"""The name under which the newest pushed checkpoint is recorded."""
_RESULTS = ("adapter", "model", "fused", "quantized")


class JobPusher:
    """Knows the job's token, its names and where everything lies."""

    def __init__(self, spec: JobSpec, *, config: Config, workspace: Workspace, secrets: Mapping[str, str]) -> None:
        """`config` is the user's, whose paths nobody looks at."""
        self._config = config
        self._workspace = workspace
        self._token = secrets.get("huggingface_hub_token", "")
        staged = read_staged_record(workspace) or StagedRecord()
        self._base_model = spec.public_names.get(config.model_name_or_path, config.model_name_or_path)
        self._base_revision = staged.revisions.get(config.model_name_or_path)
        names = list_public_names(spec, workspace=workspace)
        if staged.model is not None:
            names = {staged.model: self._base_model, **names}
        if staged.tokenizer is not None and staged.tokenizer != staged.model:
            names = {staged.tokenizer: config.tokenizer_name_or_path or self._base_model, **names}
        self._redactor = Redactor(tuple(secrets.values()), public_names=names)

    def push_result(self, step: Step, target: PushTarget, *, events: EventSink) -> PushedCommit:
        """Pushes what a done step made, and records it. Raises PushError, NetworkError, OSError."""
        marker = read_marker(self._workspace, step)
        if marker is None:
            raise AssertionError(f"{step} is not done: there is nothing to push")
        folder = next(folder for folder in marker.folders if folder.name in _RESULTS)
        root = self._workspace.root / folder.root
        subject = self._describe(cast("CardKind", folder.name), target, marker=marker)
        return self._push(step.value, root, target, subject=subject, content=hash_marker(marker), events=events)

    def push_checkpoint(self, folder: Path, target: PushTarget, *, global_step: int, events: EventSink) -> PushedCommit:
        """Pushes a whole checkpoint; the training may delete it meanwhile. Raises as `push_result`."""
        snapshot = snapshot_push_files(folder, into=self._workspace.pushing / folder.name)
        kind: CardKind = "adapter" if has_adapter(snapshot) else "model"
        subject = self._describe(kind, target, global_step=global_step)
        return self._push(CHECKPOINT, snapshot, target, subject=subject, content=folder.name, events=events)

    def _describe(
        self, kind: CardKind, target: PushTarget, *, marker: DoneMarker | None = None, global_step: int | None = None
    ) -> CardSubject:
        prepared = read_marker(self._workspace, Step.PREPARE)
        return CardSubject(
            kind=kind,
            repository=target.repository,
            base_model=self._base_model,
            base_revision=self._base_revision,
            config=self._config,
            facts={} if marker is None else marker.facts,
            data_facts={} if prepared is None else prepared.facts,
            global_step=global_step,
        )

    def _push(
        self, name: str, folder: Path, target: PushTarget, *, subject: CardSubject, content: str, events: EventSink
    ) -> PushedCommit:
        push = Push(
            folder=folder,
            target=target,
            subject=subject,
            token=self._token,
            redactor=self._redactor,
            scratch=self._workspace.pushing / f"{name}-split",
        )
        pushed = push_folder(push)
        message, data = describe_push(push, pushed)
        write_push_record(
            self._workspace, name, PushRecord(pushed.repository, pushed.commit, url=pushed.url, content=content)
        )
        events.emit("artifact.created", message=message, data=data)
        return pushed
