"""Between the words of the API and those of the core: submissions in, problems and errors out."""

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from app.api.schemas import JobRequest
from app.errors import ApiError, ErrorDetail, build_error_response
from app.jobs.commands import JobSubmission
from app.jobs.errors import (
    FileInUse,
    IdempotencyConflict,
    InvalidSubmission,
    InvalidTransition,
    JobStoreError,
    LeaseLost,
    Problem,
    TooManyJobs,
)
from app.jobs.views import Resources
from app.keys.errors import KeyNotRotatable
from app.previews.errors import TooManyPreviews
from app.projects.errors import InvalidProject, ProjectExists
from app.secrets.errors import InvalidSecret, SecretError, TooManySecrets
from app.webhooks.errors import TooManyWebhooks, WebhookDisabled

_STATUSES: dict[type[Exception], int] = {
    InvalidSubmission: 422,
    IdempotencyConflict: 422,
    InvalidTransition: 409,
    FileInUse: 409,
    LeaseLost: 409,
    TooManyJobs: 429,
    TooManyPreviews: 429,
    TooManyWebhooks: 409,
    WebhookDisabled: 409,
    KeyNotRotatable: 409,
    ProjectExists: 409,
    InvalidProject: 422,
    InvalidSecret: 422,
    TooManySecrets: 409,
}
"""All others say that something is not there."""
_MAX_DETAILS = 100
_RETRY_AFTER_SECONDS = "5"


def build_submission(body: JobRequest, *, traceparent: str | None = None) -> JobSubmission:
    """The same fields in the core's words."""
    return JobSubmission(
        config=body.config,
        steps=body.steps,
        training_file=body.training_file,
        validation_file=body.validation_file,
        input_job=body.input_job,
        resources=Resources(gpus=body.resources.gpus),
        priority=body.priority,
        max_attempts=body.max_attempts,
        max_runtime_seconds=body.max_runtime_seconds,
        keep_days=body.keep_days,
        name=body.name,
        metadata=body.metadata,
        traceparent=traceparent,
    )


def convert_problems(problems: Sequence[Problem]) -> ApiError:
    """The first problem and, as details, all of them."""
    details = [ErrorDetail(problem.message, problem.param, problem.code) for problem in problems[:_MAX_DETAILS]]
    first = details[0]
    return ApiError(first.message, status=422, code=first.code, param=first.param, details=details)


def convert_store_error(error: JobStoreError | SecretError) -> ApiError:
    """An owner's foreign ids and ids that do not exist are the same 404."""
    if isinstance(error, InvalidSubmission):
        return convert_problems(error.problems)
    message = error.message[:1].upper() + error.message[1:].removesuffix(".") + "."
    status = _STATUSES.get(type(error), 404)
    headers = {"retry-after": _RETRY_AFTER_SECONDS} if status == 429 else None
    return ApiError(message, status=status, code=error.code, param=error.param, headers=headers)


def add_store_error_handler(app: FastAPI) -> None:
    """Answers every error that the core raises on purpose."""

    @app.exception_handler(JobStoreError)
    @app.exception_handler(SecretError)
    async def answer_store_error(request: Request, error: JobStoreError | SecretError) -> Response:
        return build_error_response(convert_store_error(error))
