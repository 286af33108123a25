"""Calibration rows from a data set on the Hub: the first ones of its training split, as a file of JSON lines.

It needs the Hub: a script calls it as it quantizes, a job before its steps, which are offline.
"""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from trainer_core.datasets.json_lines import write_rows
from trainer_core.errors import DataError, NetworkError, StepInputError, TrainerError

if TYPE_CHECKING:
    from trainer_core.types import JsonValue

PARAM = "quantization_dataset_id"
REFUSALS = (400, 401, 403, 404)


def fetch_hub_rows(
    name: str, *, token: str | None = None, revision: str | None = None, max_rows: int | None = None
) -> Path:
    """The first `max_rows` rows (None: all) of a data set's training split, in a file below HF_HOME.

    `name` is `owner/name`, or `owner/name:subset` where the data set has several. `revision` None: `main` as it is
    now; the file is made once for a commit. No more of the data set is read than it takes. Raises StepInputError for
    a data set that is not there, may not be read or has no such rows, NetworkError, OSError.
    """
    repository, _, subset = name.partition(":")
    if constants.HF_HUB_OFFLINE:
        message = f"{PARAM}: there is no file {name!r} here, and HF_HUB_OFFLINE forbids to look on the Hub; give a file"
        raise StepInputError(message, param=PARAM)
    try:
        commit = HfApi().dataset_info(repository, revision=revision, token=token).sha
        path = _name_file(repository, subset=subset, commit=str(commit), max_rows=max_rows)
        if not path.is_file():
            rows = _stream_rows(repository, subset=subset, commit=str(commit), token=token)
            write_rows(path, (_as_json(row) for row in islice(rows, max_rows)))
    except DataError as error:
        raise StepInputError(f"{PARAM}: {name!r}: {error.message}", param=PARAM) from error
    # What the library of data sets raises where files are missing, of no known kind, or not as their kind says.
    except (ValueError, RuntimeError, TypeError, FileNotFoundError, httpx.HTTPError, ConnectionError) as error:
        raise _translate(error, name=name, revision=revision) from error
    return path


def _name_file(repository: str, *, subset: str, commit: str, max_rows: int | None) -> Path:
    parts = [repository.replace("/", "--"), *([subset] if subset else []), commit, str(max_rows or "all")]
    return Path(constants.HF_HOME) / "finesmith" / "calibration" / f"{'-'.join(parts)}.jsonl"


def _stream_rows(repository: str, *, subset: str, commit: str, token: str | None) -> Iterator[Any]:
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        stream: Any = datasets.load_dataset(
            repository, subset or None, split="train", streaming=True, revision=commit, token=token
        )
        yield from stream
    except DatasetsError as error:
        raise DataError(str(error)) from error


def _as_json(row: Any) -> "JsonValue":
    """Dates and their kind as text; what no text stands for is refused by the writer."""
    value: JsonValue = json.loads(json.dumps(dict(row), default=_as_text))
    return value


def _as_text(value: object) -> str:
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    raise DataError(f"a row holds a {type(value).__name__}, which is no text; choose another data set")


def _translate(error: Exception, *, name: str, revision: str | None) -> TrainerError:
    named = f"{PARAM}: the data set {name!r}"
    if isinstance(error, RevisionNotFoundError):
        return StepInputError(f"{named} has no revision {revision!r}", param=PARAM)
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        message = f"{PARAM}: {name!r} is neither a file here nor a data set on the Hub that the token given can read"
        return StepInputError(message, param=PARAM)
    if isinstance(error, HfHubHTTPError) and error.response.status_code in REFUSALS:
        return StepInputError(f"{named}: the Hub refuses access: {error}", param=PARAM)
    if isinstance(error, httpx.HTTPError | ConnectionError):
        return NetworkError(f"{named} could not be fetched from {constants.ENDPOINT}: {error}", param=PARAM)
    return StepInputError(f"{named} has no rows that can be read: {error}", param=PARAM)
