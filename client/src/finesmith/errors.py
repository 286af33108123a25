"""Everything that this SDK raises on purpose.

FinesmithError
├── ConfigurationError              the client itself is set up wrongly (no key, a bad URL, a bad id); also a ValueError
├── APIError                        a call to the service did not work
│   ├── APIConnectionError          no answer: refused, dropped, unresolvable
│   │   └── APITimeoutError         no answer in time
│   ├── UnexpectedResponseError     an answer that is no answer of this service (a proxy's page, a redirect)
│   └── APIStatusError              the service answered with an error
│       ├── BadRequestError             400
│       ├── AuthenticationError         401
│       ├── PermissionDeniedError       403
│       ├── NotFoundError               404
│       ├── ConflictError               409
│       ├── PayloadTooLargeError        413
│       ├── UnprocessableEntityError    422
│       ├── RateLimitError              429
│       └── InternalServerError         500 and above
├── JobOutcomeError                 waiting for a job ended without a success; carries the job
│   ├── JobFailed                       the job failed; carries its error
│   ├── JobCancelled                    the job was cancelled
│   └── WaitTimeout                     the job goes on, the caller's time is over; also a TimeoutError
└── IntegrityError                  what was downloaded cannot be trusted
    ├── ChecksumMismatch                size or sha256 is not what the service announced
    └── UnsafePathError                 an artifact's path points out of the chosen folder

All of them can be pickled; a job that travelled that way is detached from its client.
To add one for a status: subclass APIStatusError here and name it in `ERROR_CLASSES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finesmith.models.job import Job, JobErrorInfo


class FinesmithError(Exception):
    """Base of all errors of this SDK."""


class ConfigurationError(FinesmithError, ValueError):
    """Raised before anything is sent: an argument or environment variable is missing or malformed."""


class APIError(FinesmithError):
    """A call did not work. Raised only after the retries that its kind allows."""


class APIConnectionError(APIError):
    """No answer came: refused, dropped or unresolvable. The request may have been carried out all the same."""


class APITimeoutError(APIConnectionError):
    """No answer came within the client's `timeout`. The request may have been carried out all the same."""


class UnexpectedResponseError(APIError):
    """The answer is none of this service: `base_url` is wrong, or something between changed it. Never retried."""


@dataclass(frozen=True)
class ErrorDetail:
    """One of the problems that the service found in a request."""

    message: str
    """What is wrong and what to do, for people."""
    param: str | None = None
    """The field that is wrong, such as `training_file` or `config.lora_rank`; None when it is about no single one."""
    code: str | None = None
    """A stable word for programs."""


@dataclass(frozen=True)
class APIProblem:
    """What the service said about a call that it refused or failed."""

    status_code: int
    """HTTP status."""
    message: str
    """The first problem, for people."""
    type: str | None = None
    """Family of the error, such as `invalid_request_error`; None when the answer was not the service's own."""
    param: str | None = None
    """The field that the first problem is about; None when it is about no single one."""
    code: str | None = None
    """A stable word for programs; None when the answer was not the service's own."""
    details: tuple[ErrorDetail, ...] = ()
    """All problems, the first one included; empty when there is nothing to add to `message`."""
    request_id: str | None = None
    """`x-request-id` of the answer: name it when you ask the people who run the service."""
    retry_after_seconds: float | None = None
    """How long the service asked to wait before another try; None when it did not ask."""


class APIStatusError(APIError):
    """The service answered with a status of 400 or above. What it said stands in the attributes of `APIProblem`."""

    def __init__(self, problem: APIProblem) -> None:
        super().__init__(problem)
        self.problem = problem
        self.status_code = problem.status_code
        self.message = problem.message
        self.type = problem.type
        self.param = problem.param
        self.code = problem.code
        self.details = problem.details
        self.request_id = problem.request_id
        self.retry_after_seconds = problem.retry_after_seconds

    def __str__(self) -> str:
        facts = [f"status {self.status_code}"]
        facts += [f"{name} {value}" for name, value in (("code", self.code), ("request", self.request_id)) if value]
        others = [f"\n  - {detail.message}" for detail in self.details if detail.message != self.message]
        return f"{self.message} ({', '.join(facts)}){''.join(others)}"


class BadRequestError(APIStatusError):
    """400: the request is malformed."""


class AuthenticationError(APIStatusError):
    """401: the API key is missing, wrong, expired or revoked."""


class PermissionDeniedError(APIStatusError):
    """403: the API key is good, its scopes do not allow the call."""


class NotFoundError(APIStatusError):
    """404: nothing under that id that this key may see."""


class ConflictError(APIStatusError):
    """409: the thing is in a state that does not allow the call, such as a retry of a running job."""


class PayloadTooLargeError(APIStatusError):
    """413: the body or the file is over the installation's limit."""


class UnprocessableEntityError(APIStatusError):
    """422: well formed, but not acceptable; `details` names every field that is wrong."""


class RateLimitError(APIStatusError):
    """429: too many calls, still after the retries; see `retry_after_seconds`."""


class InternalServerError(APIStatusError):
    """500 and above: the service failed, still after the retries."""


ERROR_CLASSES: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    413: PayloadTooLargeError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


def error_for(problem: APIProblem) -> APIStatusError:
    """The most exact error for the status; a 4xx without a class of its own is a plain APIStatusError."""
    if problem.status_code >= 500:
        return InternalServerError(problem)
    return ERROR_CLASSES.get(problem.status_code, APIStatusError)(problem)


class JobOutcomeError(FinesmithError):
    """Waiting for a job ended without its success; `job` is the job as last seen."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.job = job


class JobFailed(JobOutcomeError):
    """The job failed. Raised by `wait`; `client.jobs.retry` starts it anew."""

    @property
    def error(self) -> JobErrorInfo | None:
        """Why the job failed, as the service recorded it; None only if the service gave no reason."""
        return self.job.error

    def __str__(self) -> str:
        error = self.job.error
        if error is None:
            return f"{self.job.id} failed"
        place = f" in step {error.step}" if error.step else ""
        about = f", {error.param}" if error.param else ""
        return f"{self.job.id} failed{place}: {error.message} ({error.code}{about})"


class JobCancelled(JobOutcomeError):
    """The job was cancelled before it finished. Raised by `wait`."""

    def __str__(self) -> str:
        return f"{self.job.id} was cancelled"


class WaitTimeout(JobOutcomeError, TimeoutError):
    """The job had not finished when the time given to `wait` was over. The job goes on: wait again or cancel it."""

    def __str__(self) -> str:
        return f"{self.job.id} is still {self.job.status}: the time given to wait() is over, the job goes on"


class IntegrityError(FinesmithError):
    """What was downloaded cannot be trusted. Nothing was left under the final name."""


class ChecksumMismatch(IntegrityError):
    """Size or sha256 differs from what the service announced, also after a second try from the first byte."""


class UnsafePathError(IntegrityError):
    """An artifact's path would have been written out of the chosen folder. Raised before anything is downloaded."""
