"""Errors of the job service.

JobStoreError
├── JobNotFound          get, cancel, retry, delete, lists: no such job of this owner
├── FileNotFound         file service: no such file of this owner
├── ArtifactNotFound     get_artifact: the job has no such path
├── InvalidSubmission    submit, retry: carries every problem found
├── IdempotencyConflict  submit: the key was used with another body
├── InvalidTransition    cancel, retry, delete: the job's state (or a job that needs it) does not allow it
├── FileInUse            file service: an unfinished job needs the file
├── TooManyJobs          submit, retry: as many jobs of the project wait as may
└── LeaseLost            worker side: the attempt is no longer the job's; fatal for the attempt, never for the job
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a submission or an upload; `param` names the field."""

    message: str
    param: str | None
    code: str


class JobStoreError(Exception):
    """Base of all errors that the services of this package raise on purpose."""

    code = "job_store_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class JobNotFound(JobStoreError):
    code = "job_not_found"

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r}", param="job_id")


class FileNotFound(JobStoreError):
    code = "file_not_found"

    def __init__(self, file_id: str) -> None:
        super().__init__(f"no file {file_id!r}", param="file_id")


class ArtifactNotFound(JobStoreError):
    code = "artifact_not_found"

    def __init__(self, path: str) -> None:
        super().__init__(f"the job has no artifact {path!r}", param="path")


class InvalidSubmission(JobStoreError):
    code = "invalid_submission"

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems, "an invalid submission has at least one problem"
        super().__init__("; ".join(problem.message for problem in problems), param=problems[0].param)
        self.problems = tuple(problems)


class IdempotencyConflict(JobStoreError):
    code = "idempotency_conflict"

    def __init__(self, key: str) -> None:
        super().__init__(f"Idempotency-Key {key!r} was used before with another body", param="Idempotency-Key")


class InvalidTransition(JobStoreError):
    code = "invalid_transition"


class FileInUse(JobStoreError):
    code = "file_in_use"

    def __init__(self, file_id: str, job_id: str) -> None:
        super().__init__(f"file {file_id} is needed by the unfinished job {job_id}", param="file_id")


class TooManyJobs(JobStoreError):
    code = "too_many_queued_jobs"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"{limit} jobs of this project wait already, which is its limit; submit again when some have begun"
        )


class LeaseLost(JobStoreError):
    code = "lease_lost"

    def __init__(self, job_id: str, attempt: int) -> None:
        super().__init__(f"attempt {attempt} of {job_id} no longer holds the job")
        self.job_id = job_id
        self.attempt = attempt
