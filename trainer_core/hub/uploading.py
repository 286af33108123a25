"""One push: a commit with everything in it, tried again while the network is at fault."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from trainer_core.hub.access import RETRY_PAUSES_SECONDS, call_hub
from trainer_core.hub.files import PushFiles
from trainer_core.hub.targets import PushTarget


@dataclass(frozen=True, slots=True)
class PushedCommit:
    """What a hub holds now."""

    repository: str
    commit: str
    """The commit's sha."""
    url: str
    """Of the repository, for a person."""


def push_files(
    files: PushFiles,
    *,
    target: PushTarget,
    token: str,
    message: str,
    pauses_seconds: Sequence[float] = RETRY_PAUSES_SECONDS,
) -> PushedCommit:
    """Commits the files to the target's repository, which must be there, all or nothing.

    What is there already is not sent again, so that a push whose answer was lost, or that was broken off, costs little
    when it is repeated. Raises PushError for what the user must change, NetworkError after the last try.
    """
    return call_hub(
        lambda: _commit(files, target=target, token=token, message=message), target, pauses_seconds=pauses_seconds
    )


def _commit(files: PushFiles, *, target: PushTarget, token: str, message: str) -> PushedCommit:
    api = HfApi(token=token)
    names_there = api.list_repo_files(target.repository)
    info = api.create_commit(
        target.repository,
        operations=[
            *(
                CommitOperationAdd(name, str(content) if isinstance(content, Path) else content)
                for name, content in files.contents.items()
            ),
            *(CommitOperationDelete(name) for name in files.find_stale(names_there)),
        ],
        commit_message=message,
    )
    return PushedCommit(target.repository, commit=info.oid, url=f"{api.endpoint}/{target.repository}")
