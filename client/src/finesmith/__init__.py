"""The Python SDK of Finesmith, the self-hosted service for fine-tuning language models: begin with `Client`."""

from finesmith.client import Client
from finesmith.errors import (
    APIConnectionError,
    APIError,
    APIProblem,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChecksumMismatch,
    ConfigurationError,
    ConflictError,
    ErrorDetail,
    FinesmithError,
    IntegrityError,
    InternalServerError,
    JobCancelled,
    JobFailed,
    JobOutcomeError,
    NotFoundError,
    PayloadTooLargeError,
    PermissionDeniedError,
    RateLimitError,
    UnexpectedResponseError,
    UnprocessableEntityError,
    UnsafePathError,
    WaitTimeout,
)
from finesmith.models.artifact import Artifact
from finesmith.models.event import Event, LogLine
from finesmith.models.file import File
from finesmith.models.installation import Gpu, Health, Registries, Validation, Worker
from finesmith.models.job import Job, JobErrorInfo, JobProgress, JobStatus, JobStep, Resources
from finesmith.models.page import Page
from finesmith.retry import RetryPolicy
from finesmith.submission import JobOptions
from finesmith.version import __version__

__all__ = [
    "APIConnectionError",
    "APIError",
    "APIProblem",
    "APIStatusError",
    "APITimeoutError",
    "Artifact",
    "AuthenticationError",
    "BadRequestError",
    "ChecksumMismatch",
    "Client",
    "ConfigurationError",
    "ConflictError",
    "ErrorDetail",
    "Event",
    "File",
    "FinesmithError",
    "Gpu",
    "Health",
    "IntegrityError",
    "InternalServerError",
    "Job",
    "JobCancelled",
    "JobErrorInfo",
    "JobFailed",
    "JobOptions",
    "JobOutcomeError",
    "JobProgress",
    "JobStatus",
    "JobStep",
    "LogLine",
    "NotFoundError",
    "Page",
    "PayloadTooLargeError",
    "PermissionDeniedError",
    "RateLimitError",
    "Registries",
    "Resources",
    "RetryPolicy",
    "UnexpectedResponseError",
    "UnprocessableEntityError",
    "UnsafePathError",
    "Validation",
    "WaitTimeout",
    "Worker",
    "__version__",
]
