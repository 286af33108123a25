"""What an error of the hub's client means to a user: what to change, or that the same again may succeed."""

from collections.abc import Iterator

import httpx
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError

from trainer_core.errors import NetworkError, PushError, TrainerError
from trainer_core.hub.targets import PushTarget

TOKEN_KEY = "huggingface_hub_token"
_TRANSIENT_STATUSES = frozenset({408, 409, 412, 425, 429})
"""409 and 412: another commit came in between."""

CLIENT_ERRORS: tuple[type[Exception], ...] = (httpx.HTTPError, HFValidationError, RuntimeError, OSError, ValueError)
"""What the client raises: HfHubHTTPError is an OSError; xet and threads of uploads raise RuntimeError."""


def translate_push_error(error: Exception, target: PushTarget) -> TrainerError | None:
    """The error to raise in place of what the client raised; None for what has nothing to do with a hub."""
    named = f"{target.param}: {target.repository!r}"
    for cause in _iterate_causes(error):
        if isinstance(cause, TrainerError):
            return cause
        if isinstance(cause, OfflineModeIsEnabled):
            message = f"{named} cannot be pushed to, since HF_HUB_OFFLINE is set; unset it, or push nothing"
            return PushError(message, param=target.param)
        if isinstance(cause, HfHubHTTPError):
            return _translate_answer(cause, target)
        if isinstance(cause, httpx.TransportError):
            reason = f"{constants.ENDPOINT} cannot be reached, or broke the connection: {_first_line(cause)}"
            return NetworkError(f"{named}: {reason}", param=target.param)
        if isinstance(cause, ConnectionError | TimeoutError | PermissionError) and "http" in str(cause):
            return _translate_xet(cause, target)
    if isinstance(error, RuntimeError):
        reasons = " ".join(_first_line(cause) for cause in list(_iterate_causes(error))[:2])
        return NetworkError(f"{named}: the upload failed: {reasons}", param=target.param)
    if isinstance(error, HFValidationError | ValueError):
        return PushError(f"{named}: the hub does not take it: {_first_line(error)}", param=target.param)
    return None


def _translate_answer(error: HfHubHTTPError, target: PushTarget) -> TrainerError:
    status = error.response.status_code
    named = f"{target.param}: {target.repository!r}"
    if status in _TRANSIENT_STATUSES or status >= 500:
        message = f"{named}: {constants.ENDPOINT} answered {status}; the push is tried again when the job goes on"
        return NetworkError(message, param=target.param)
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        message = f"{TOKEN_KEY}: {constants.ENDPOINT} does not know the token (401); give a valid one"
        return PushError(message, param=TOKEN_KEY)
    if status in (401, 403, 404):
        message = (
            f"{TOKEN_KEY}: the token may not write to {target.repository!r} ({target.param}), answered "
            f"{constants.ENDPOINT} with {status}; give a token with write rights there, or another repository"
        )
        return PushError(message, param=TOKEN_KEY)
    reason = error.server_message or _first_line(error)
    return PushError(f"{named}: {constants.ENDPOINT} refuses the push ({status}): {reason}", param=target.param)


def _translate_xet(error: OSError, target: PushTarget) -> TrainerError:
    """The client for Xet storage, where one is installed, raises Python's own errors, with the answer in their text."""
    named = f"{target.param}: {target.repository!r}"
    text = _first_line(error)
    if "(404" in text:
        reason = f"{constants.ENDPOINT} has no Xet storage; set HF_HUB_DISABLE_XET=1 in this process's environment"
        return PushError(f"{named}: {reason}", param=target.param)
    if isinstance(error, PermissionError) or "(401" in text or "(403" in text:
        message = f"{TOKEN_KEY}: the token may not write to {target.repository!r} ({target.param}): {text}"
        return PushError(message, param=TOKEN_KEY)
    return NetworkError(f"{named}: the upload broke off: {text}", param=target.param)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _iterate_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__
