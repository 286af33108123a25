"""Making sure, before any work is done, that a token may push to every repository."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from trainer_core.errors import NetworkError, PushError
from trainer_core.hub.failures import CLIENT_ERRORS, TOKEN_KEY, translate_push_error
from trainer_core.hub.targets import PushTarget

Answer = TypeVar("Answer")

RETRY_PAUSES_SECONDS: tuple[float, ...] = (1.0, 5.0, 20.0)
"""Between tries; what the client itself repeats comes on top."""


def prepare_repositories(targets: Sequence[PushTarget], *, token: str | None) -> tuple[PushTarget, ...]:
    """Makes the repositories that are missing and returns the targets with their whole names.

    Raises PushError naming `huggingface_hub_token` without a token or when it may not write, naming the key of the
    repository when it is public where a private one is asked for; NetworkError, after a few tries.
    """
    if targets and not token:
        keys = ", ".join(target.param for target in targets)
        message = f"{TOKEN_KEY}: there is no token to push with; give one with write rights, or leave out {keys}"
        raise PushError(message, param=TOKEN_KEY)
    api = HfApi(token=token)
    prepared: list[PushTarget] = []
    for target in targets:
        whole = call_hub(partial(_prepare_repository, api, target), target)
        if whole.repository.casefold() in {other.repository.casefold() for other in prepared}:
            message = f"{whole.param}: {whole.repository!r} is pushed to by another step too; give each a repository"
            raise PushError(message, param=whole.param)
        prepared.append(whole)
    return tuple(prepared)


def call_hub(
    call: Callable[[], Answer], target: PushTarget, *, pauses_seconds: Sequence[float] = RETRY_PAUSES_SECONDS
) -> Answer:
    """Calls, and calls again after each pause while the network is at fault. Raises PushError, NetworkError."""
    for pause in (*pauses_seconds, None):
        try:
            return call()
        except CLIENT_ERRORS as error:
            translated = translate_push_error(error, target)
            if translated is None:
                raise
            if not isinstance(translated, NetworkError) or pause is None:
                raise translated from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _prepare_repository(api: HfApi, target: PushTarget) -> PushTarget:
    url = api.create_repo(target.repository, private=target.is_private, exist_ok=True)
    whole = replace(target, repository=url.repo_id)
    _check_write(api, whole)
    if target.is_private and not api.model_info(whole.repository).private:
        flag = target.param.replace("model_id", "private_repo")
        message = (
            f"{flag}: {whole.repository!r} is a public repository, and {flag} asks for a private one; make it private, "
            f"set {flag}=False, or give another {target.param}"
        )
        raise PushError(message, param=flag)
    return whole


def _check_write(api: HfApi, target: PushTarget) -> None:
    try:
        api.auth_check(target.repository, write=True)
    except RepositoryNotFoundError:
        raise
    except HfHubHTTPError as error:
        # A hub of an older kind does not know the question; its answer to the push itself has to do.
        if error.response.status_code != 404:
            raise
