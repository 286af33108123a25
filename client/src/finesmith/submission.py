"""The body of a submission: what `client.jobs.create` and `.validate` take, put into the service's words."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict

from finesmith.errors import ConfigurationError
from finesmith.models.file import File
from finesmith.models.job import Job, Resources

DataSet = str | os.PathLike[str] | File
"""A data set: the id of an uploaded file, the file, or the path of a local one (a `Path` is always a path)."""


class JobOptions(TypedDict, total=False):
    """What may be said about a job beside its config. What is left out, or None, is left to the service."""

    steps: Sequence[str] | None
    """Which of `prepare`, `train`, `fuse`, `quantize` to run, in this order."""
    training_file: DataSet | None
    """The rows to train on."""
    validation_file: DataSet | None
    """The rows to evaluate on; never trained on."""
    input_job: str | Job | None
    """A finished job whose results this one takes up."""
    resources: Resources | Mapping[str, int | None] | None
    """`{"gpus": 2}`: GPUs of one host."""
    priority: int | None
    """From -100 to 100; higher goes first."""
    max_attempts: int | None
    """How often the job is taken up again after failures that may go away."""
    max_runtime_seconds: float | None
    """The job is stopped when its attempts together take longer, in seconds."""
    keep_days: float | None
    """Days from the job's end to its removal with all that it made."""
    name: str | None
    """For people."""
    metadata: Mapping[str, str] | None
    """For your own use; the service only keeps it."""


def build_submission(
    config: Mapping[str, object], options: JobOptions, *, upload: Callable[[Path], File]
) -> dict[str, object]:
    """The body to be posted; `upload` is called for each data set that is a local path.

    Raises TypeError for an option that there is not, and FileNotFoundError for a path where no file lies.
    """
    unknown = options.keys() - JobOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(JobOptions.__annotations__)
        raise TypeError(f"There is no job option {sorted(unknown)[0]!r}; there are {known}.")
    body: dict[str, object] = {name: value for name, value in options.items() if value is not None}
    body["config"] = dict(config)
    if "steps" in body:
        body["steps"] = list(options["steps"] or ())
    if "metadata" in body:
        body["metadata"] = dict(options["metadata"] or {})
    input_job, resources = options.get("input_job"), options.get("resources")
    if isinstance(input_job, Job):
        body["input_job"] = input_job.id
    if resources is not None:
        body["resources"] = asdict(resources) if isinstance(resources, Resources) else dict(resources)
    data_sets = {
        name: find_data_set(body[name], name=name) for name in ("training_file", "validation_file") if name in body
    }
    # Nothing is sent before everything has been found.
    body.update({name: upload(place).id if isinstance(place, Path) else place for name, place in data_sets.items()})
    return body


def refuse_upload(path: Path) -> File:
    """Stands for `upload` where nothing may be stored."""
    raise ConfigurationError(f"Validating stores nothing: upload {path} with client.files.upload and give its id.")


def find_data_set(data_set: object, *, name: str) -> str | Path:
    """The id of an uploaded file, or the path of a local one."""
    if isinstance(data_set, File):
        return data_set.id
    if isinstance(data_set, str) and re.fullmatch(r"file-[A-Za-z0-9_-]+", data_set):
        return data_set
    if not isinstance(data_set, str | os.PathLike):
        raise TypeError(f"{name} takes a file id, a File or a path, not {type(data_set).__name__}.")
    path = Path(data_set)
    if not path.is_file():
        raise FileNotFoundError(f"{name}: {str(path)!r} is neither the id of an uploaded file nor a file here.")
    return path
