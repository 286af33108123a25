"""The commit of a data set on a hub, asked for before it is read: an answer that says no becomes a clear error."""

import time

import httpx
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

from trainer_core.errors import DataError, NetworkError, TrainerError

_PAUSES_SECONDS = (1.0, 5.0)


def pin_revision(repository: str, *, token: str | None, param: str = "dataset_key") -> str | None:
    """The sha of the data set's newest commit; None where no hub may be asked, and the cache has to do.

    Raises DataError naming `param` when the token cannot read it, NetworkError when the hub is ill or away.
    """
    for pause in (*_PAUSES_SECONDS, None):
        try:
            return HfApi().dataset_info(repository, token=token).sha
        except OfflineModeIsEnabled:
            return None
        except (HfHubHTTPError, httpx.HTTPError) as error:
            translated = _translate(error, repository, param=param)
            if pause is None or not translated.retryable or isinstance(error, httpx.ConnectError):
                raise translated from error
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _translate(error: HfHubHTTPError | httpx.HTTPError, repository: str, *, param: str) -> TrainerError:
    named = f"{param}: the data set {repository!r}"
    if not isinstance(error, HfHubHTTPError):
        return NetworkError(f"{named} could not be fetched from {constants.ENDPOINT}: {error}", param=param)
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        message = f"{named} is gated: accept its terms on the hub, and give the huggingface_hub_token of who did"
        return DataError(message, param=param)
    if isinstance(error, RepositoryNotFoundError) or (status < 500 and status not in (408, 429)):
        reason = f"cannot be read: {constants.ENDPOINT} answered {status}; check the name and huggingface_hub_token"
        return DataError(f"{named} {reason}", param=param)
    return NetworkError(f"{named} could not be fetched: {constants.ENDPOINT} answered {status}", param=param)
