"""What a submission names: files and a job whose artifacts it goes on from; and what an upload's first row tells."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import Connection

from app.jobs import records, repository
from app.jobs.commands import JobSubmission
from app.jobs.errors import Problem
from app.states import FINAL_STATUSES


@dataclass(frozen=True, slots=True)
class References:
    """`training_row_keys`: keys of the training file's first row, None without a file that exists."""

    problems: tuple[Problem, ...]
    input_artifacts: frozenset[str]
    training_row_keys: frozenset[str] | None
    calibration_file: str | None


def find_references(connection: Connection, owner: str, submission: JobSubmission) -> References:
    """Looks up everything that the submission names; what is not there, or is not the owner's, is a problem."""
    calibration = submission.config.get("quantization_dataset_id")
    calibration_file = calibration if isinstance(calibration, str) and calibration.startswith("file-") else None
    named = {
        "training_file": submission.training_file,
        "validation_file": submission.validation_file,
        "config.quantization_dataset_id": calibration_file,
    }
    ids = sorted({file_id for file_id in named.values() if file_id is not None})
    known = records.find_file_refs(connection, owner=owner, file_ids=ids) if ids else {}
    problems = [
        Problem(f"{param.removeprefix('config.')}: no such file {file_id!r}", param, "file_not_found")
        for param, file_id in named.items()
        if file_id is not None and file_id not in known
    ]
    artifacts: frozenset[str] = frozenset()
    if submission.input_job is not None:
        artifacts, found = _find_input_job(connection, owner, submission.input_job)
        problems += found
    row_keys = None
    if submission.training_file in known:
        row_keys = records.find_row_keys(connection, str(submission.training_file), owner=owner)
    return References(tuple(problems), artifacts, row_keys, calibration_file)


def infer_keys(submission: JobSubmission, references: References) -> tuple[dict[str, object], list[Problem]]:
    """The config with `dataset_key` chosen by the first uploaded row where it was not given."""
    values = dict(submission.config)
    if references.training_row_keys is None or values.get("dataset_key") is not None:
        return values, []
    keys = references.training_row_keys
    if "messages" in keys:
        values["dataset_key"] = "chat"
    elif keys & {"text_parts", str(values.get("dataset_sample_field", "text"))}:
        values["dataset_key"] = "general"
    else:
        message = (
            "training_file: its first row has none of the keys messages, text_parts and text; give dataset_key to say"
            " which data set reads it"
        )
        return values, [Problem(message, "training_file", "unknown_rows")]
    return values, []


def _find_input_job(connection: Connection, owner: str, job_id: str) -> tuple[frozenset[str], list[Problem]]:
    # Locked, so that it cannot be deleted before this submission is stored.
    job = repository.lock_job(connection, job_id, owner=owner)
    if job is None:
        return frozenset(), [Problem(f"input_job: no such job {job_id!r}", "input_job", "job_not_found")]
    artifacts = records.list_artifact_names(connection, job)
    return artifacts, list(_check_input_state(job_id, job.status in FINAL_STATUSES, bool(artifacts)))


def _check_input_state(job_id: str, is_final: bool, has_artifacts: bool) -> Iterator[Problem]:
    if not is_final:
        yield Problem(f"input_job: {job_id} has not ended yet", "input_job", "job_not_finished")
    elif not has_artifacts:
        yield Problem(f"input_job: {job_id} has published nothing to go on from", "input_job", "missing_input")
