"""Pushing of one folder: its files chosen, cleaned and described, then committed."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainer_core.errors import PushError
from trainer_core.hub.card import CardSubject, build_card
from trainer_core.hub.files import collect_push_files
from trainer_core.hub.targets import PushTarget
from trainer_core.hub.uploading import PushedCommit, push_files
from trainer_core.redaction import Redactor
from trainer_core.types import JsonValue


@dataclass(frozen=True, slots=True)
class Push:
    """One folder on its way to a repository."""

    folder: Path
    target: PushTarget
    subject: CardSubject
    token: str
    redactor: Redactor
    scratch: Path
    """A folder that does not exist yet, for weights that must be split; removed in the end."""
    sets_add_bos: bool | None = None
    """Whether the pushed tokenizer's settings say `add_bos_token`; None: as the Config says."""


def push_folder(push: Push) -> PushedCommit:
    """Pushes weights, settings, tokenizer and a model card, as one commit.

    The Config of the subject says how large a file may be and whether the tokenizer's settings are changed. Raises
    PushError, NetworkError, OSError for what cannot be read or split here.
    """
    config = push.subject.config
    sets_add_bos = config.push_to_hub_bos_add_bos_token if push.sets_add_bos is None else push.sets_add_bos
    try:
        try:
            files = collect_push_files(
                push.folder,
                card=build_card(push.subject),
                max_shard_size=config.max_shard_size,
                sets_add_bos=sets_add_bos,
                redactor=push.redactor,
                scratch=push.scratch,
            )
        except ValueError as error:
            raise PushError(f"{push.target.param}: {error}", param=push.target.param) from error
        return push_files(files, target=push.target, token=push.token, message=_describe(push.subject))
    finally:
        shutil.rmtree(push.scratch, ignore_errors=True)


def describe_push(push: Push, pushed: PushedCommit) -> tuple[str, Mapping[str, JsonValue]]:
    """Message and data of the event `artifact.created` for a push."""
    subject = push.subject
    what = _name(subject) if subject.global_step is None else f"the checkpoint of step {subject.global_step}"
    data: dict[str, JsonValue] = {
        "name": subject.kind,
        "repository": pushed.repository,
        "commit": pushed.commit,
        "url": pushed.url,
        "private": push.target.is_private,
    }
    if subject.global_step is not None:
        data["global_step"] = subject.global_step
    return f"pushed {what} to {pushed.url}", data


def _describe(subject: CardSubject) -> str:
    """The commit's message."""
    return f"Add {_name(subject)}" if subject.global_step is None else f"Checkpoint of step {subject.global_step}"


def _name(subject: CardSubject) -> str:
    return f"the {subject.kind}{' model' if subject.kind in ('fused', 'quantized') else ''}"
