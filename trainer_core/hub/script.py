"""Pushes of a script: in its own process, with the token that it is logged in with."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import huggingface_hub

from trainer_core.config import SECRET_FIELDS, Config, Step
from trainer_core.context import ArtifactFolder, EventSink, StepResult
from trainer_core.environment_file import find_tokens, read_tokens
from trainer_core.errors import TrainerError
from trainer_core.hub.access import prepare_repositories
from trainer_core.hub.card import CardKind, CardSubject, name_publicly
from trainer_core.hub.failures import TOKEN_KEY
from trainer_core.hub.files import has_adapter
from trainer_core.hub.pushing import Push, describe_push, push_folder
from trainer_core.hub.targets import PushTarget, list_push_targets
from trainer_core.hub.uploading import PushedCommit
from trainer_core.redaction import Redactor
from trainer_core.types import JsonValue

_STEP_OF: Mapping[str, Step] = {
    "adapter": Step.TRAIN,
    "model": Step.TRAIN,
    "fused": Step.FUSE,
    "quantized": Step.QUANTIZE,
}


@dataclass(slots=True)
class ScriptPusher:
    """Knows the token, and the repositories that were made sure of before the work began."""

    config: Config
    targets: tuple[PushTarget, ...]
    token: str
    base_revision: str | None = None
    """The commit of the base model, once it is loaded."""
    sets_add_bos: bool | None = None
    """Whether the pushed tokenizer's settings say `add_bos_token`; None: as the Config says."""

    def find_target(self, step: Step) -> PushTarget | None:
        """Where the step's results go; None when they are not pushed."""
        return next((target for target in self.targets if target.step is step), None)

    def push_result(self, result: StepResult, *, events: EventSink) -> StepResult:
        """Pushes each folder that has a target, and adds the commits to the facts as `pushed`.

        Everything is tried before the first error is raised: PushError, NetworkError, OSError.
        """
        pushed: dict[str, JsonValue] = {}
        errors: list[Exception] = []
        for artifact in result.artifacts:
            target = self.find_target(_STEP_OF[artifact.name]) if artifact.name in _STEP_OF else None
            if target is None:
                continue
            try:
                commit = self._push_artifact(artifact, target, facts=result.facts, events=events)
            except (TrainerError, OSError) as error:
                errors.append(error)
                continue
            pushed[artifact.name] = {"repository": commit.repository, "commit": commit.commit, "url": commit.url}
        if errors:
            raise errors[0]
        return replace(result, facts={**result.facts, "pushed": pushed}) if pushed else result

    def push(
        self,
        folder: Path,
        target: PushTarget,
        *,
        kind: CardKind,
        events: EventSink,
        facts: Mapping[str, JsonValue] | None = None,
        global_step: int | None = None,
    ) -> PushedCommit:
        """Pushes one folder. Raises PushError, NetworkError, OSError."""
        push = Push(
            folder=folder,
            target=target,
            subject=CardSubject(
                kind=kind,
                repository=target.repository,
                base_model=name_publicly(self.config.model_name_or_path),
                base_revision=self.base_revision,
                config=self.config,
                facts=facts or {},
                global_step=global_step,
            ),
            token=self.token,
            redactor=build_script_redactor(self.config, token=self.token),
            scratch=folder.with_name(f".{folder.name}.split"),
            sets_add_bos=self.sets_add_bos,
        )
        pushed = push_folder(push)
        message, data = describe_push(push, pushed)
        events.emit("artifact.created", message=message, data=data)
        return pushed

    def push_checkpoint(self, folder: Path, *, global_step: int, events: EventSink) -> PushedCommit:
        """Pushes one checkpoint of a training that has a target. Raises as `push`."""
        target = self.find_target(Step.TRAIN)
        assert target is not None
        kind: CardKind = "adapter" if has_adapter(folder) else "model"
        return self.push(folder, target, kind=kind, events=events, global_step=global_step)

    def _push_artifact(
        self, artifact: ArtifactFolder, target: PushTarget, *, facts: Mapping[str, JsonValue], events: EventSink
    ) -> PushedCommit:
        kind: CardKind = artifact.name if artifact.name != "data" else "model"
        return self.push(artifact.root, target, kind=kind, events=events, facts=facts)


def connect_script(config: Config, steps: Sequence[Step]) -> ScriptPusher | None:
    """Makes sure that a script may push what these steps make; None when they push nothing.

    Raises PushError naming what to change, NetworkError.
    """
    targets = list_push_targets(config, steps)
    return connect_to(config, targets) if targets else None


def connect_to(config: Config, targets: Sequence[PushTarget]) -> ScriptPusher:
    """As `connect_script`, with targets of the caller's own."""
    token = find_script_token(config) or ""
    return ScriptPusher(config, prepare_repositories(targets, token=token), token)


def find_script_token(config: Config) -> str | None:
    """The Config's token, the environment's, that of the `.env` file, or the saved login; no environment is changed."""
    given = config.huggingface_hub_token or find_tokens().get(TOKEN_KEY)
    return given or read_tokens(config.path_to_env_file).get(TOKEN_KEY) or huggingface_hub.get_token()


def build_script_redactor(config: Config, *, token: str) -> Redactor:
    """Takes out secrets, and names the folders of models by their own names alone."""
    secrets = [str(getattr(config, name)) for name in SECRET_FIELDS if getattr(config, name)]
    folders = [name for name in (config.model_name_or_path, config.tokenizer_name_or_path) if name is not None]
    paths = {form for name in folders if Path(name).is_dir() for form in (name, str(Path(name).resolve()))}
    public_names = {path: name_publicly(path) for path in paths if os.path.isabs(path)}
    return Redactor((token, *secrets), public_names=public_names)
