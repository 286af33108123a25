"""Submitting jobs and steering them."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

from app.api import examples, schemas
from app.api.deps import After, IdempotencyKey, JobId, Limit, PrincipalDep, ServicesDep
from app.api.live_wait import MAX_WAIT_SECONDS, wait_until_final
from app.api.quick_calls import read_job, submit_job
from app.api.rendering import json_response, render_deleted, render_error, render_job, render_list
from app.api.responses import error_responses, example_of
from app.api.translation import build_submission, convert_problems
from app.jobs.storable import make_storable
from app.jobs.views import JobView
from app.states import JobStatus
from app.telemetry import find_traceparent

router = APIRouter(tags=["jobs"])


@router.post(
    "/v1/jobs",
    summary="Submit a job",
    status_code=201,
    response_model=schemas.Job,
    responses={
        **example_of(
            examples.JOB,
            status=201,
            description="The job is stored and will run; it is never lost from here on.",
            headers={
                "location": {"description": "Path of the job.", "schema": {"type": "string"}},
                "idempotent-replayed": {
                    "description": "`true` when an earlier submission with this key made the job.",
                    "schema": {"type": "string"},
                },
            },
        ),
        **error_responses(400, 413, 422, 429),
    },
)
async def create_job(
    request: Request,
    body: schemas.JobRequest,
    services: ServicesDep,
    principal: PrincipalDep,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Checks the whole submission and puts the job into the queue.

    Everything that can be known to be wrong is refused here, with all problems in `error.details`: unknown keys with
    the nearest name, steps without a source, files that are not yours, models that are not there.
    """
    submission = build_submission(body, traceparent=find_traceparent(request.headers.get("traceparent")))
    submitted = await submit_job(services, principal.owner, submission, idempotency_key=idempotency_key)
    bind_contextvars(job_id=submitted.job.id)
    headers = {"location": f"/v1/jobs/{submitted.job.id}"}
    if submitted.replayed:
        headers["idempotent-replayed"] = "true"
    return json_response(render_job(submitted.job), status=201, headers=headers)


@router.post(
    "/v1/jobs/validate",
    summary="Check a job without submitting it",
    response_model=schemas.Validation,
    responses={
        **example_of(examples.VALIDATION, description="The verdict; also when it is not valid."),
        **error_responses(400, 413, 422),
    },
)
def validate_job(body: schemas.JobRequest, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Takes what `POST /v1/jobs` takes and stores nothing: answers the whole Config with its defaults, the steps that
    would run, warnings, and every problem."""
    verdict = services.jobs.validate(principal.owner, build_submission(body))
    error = render_error(convert_problems(verdict.problems)) if verdict.problems else None
    return json_response(
        {
            "object": "job.validation",
            "valid": error is None,
            # Of a refused one, too, with half of a surrogate pair in it.
            "config": make_storable(verdict.config) if verdict.config else None,
            "steps": verdict.steps,
            "warnings": verdict.warnings,
            "error": error,
        }
    )


@router.get(
    "/v1/jobs",
    summary="List jobs",
    response_model=schemas.ListOf[schemas.Job],
    responses={
        **example_of(examples.list_of(examples.JOB), description="Your jobs, newest first."),
        **error_responses(422),
    },
)
def list_jobs(
    services: ServicesDep,
    principal: PrincipalDep,
    limit: Limit = 20,
    after: After = None,
    status: Annotated[JobStatus | None, Query(description="Only jobs in this state.")] = None,
) -> Response:
    """Answers your jobs, the newest first, one page at a time: ask on with `after`, the id of the last one."""
    page = services.jobs.list(principal.owner, after=after, limit=limit, status=status)
    return json_response(render_list(map(render_job, page.data), has_more=page.has_more))


@router.get(
    "/v1/jobs/{job_id}",
    summary="Get a job",
    response_model=schemas.Job,
    responses={**example_of(examples.JOB, description="The job as it is now."), **error_responses(404, 422)},
)
async def get_job(
    request: Request,
    job_id: JobId,
    services: ServicesDep,
    principal: PrincipalDep,
    wait: Annotated[
        float | None,
        Query(
            ge=0,
            le=MAX_WAIT_SECONDS,
            allow_inf_nan=False,
            description="Answer only when the job has succeeded, failed or was cancelled, or after this many seconds.",
        ),
    ] = None,
) -> Response:
    """Answers the job; with `wait` it waits for its end first, but no longer than that many seconds."""
    job = await read_job(services, principal.owner, job_id)
    if wait:
        job = await wait_until_final(services, request, principal.owner, job, max_seconds=wait)
    return json_response(render_job(job))


@router.delete(
    "/v1/jobs/{job_id}",
    summary="Delete a job",
    response_model=schemas.DeletedObject,
    responses={
        **example_of(examples.deleted(examples.JOB), description="The job, its events, logs and artifacts are gone."),
        **error_responses(404, 409, 422),
    },
)
def delete_job(job_id: JobId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Deletes a finished job with its events, logs and artifacts; cancel a running one first."""
    services.jobs.delete(principal.owner, job_id)
    return json_response(render_deleted(job_id, "job"))


@router.post(
    "/v1/jobs/{job_id}/cancel",
    summary="Cancel a job",
    response_model=schemas.Job,
    responses={
        **example_of(
            examples.JOB, description="The job; a running one is cancelled as soon as its worker has stopped it."
        ),
        **error_responses(404, 409, 422),
    },
)
def cancel_job(
    job_id: JobId,
    services: ServicesDep,
    principal: PrincipalDep,
    save_checkpoint: Annotated[
        bool, Query(description="False: a running job is killed at once, and what it has not saved yet is lost.")
    ] = True,
) -> Response:
    """Asks for the job to stop. A queued job is cancelled at once; a running one has 30 seconds to save a checkpoint,
    from which a retry goes on."""
    return _answer(services.jobs.cancel(principal.owner, job_id, save_checkpoint=save_checkpoint))


@router.post(
    "/v1/jobs/{job_id}/pause",
    summary="Pause a job",
    response_model=schemas.Job,
    responses={
        **example_of(examples.JOB, description="The job; a running one is paused when it has saved a checkpoint."),
        **error_responses(404, 409, 422),
    },
)
def pause_job(job_id: JobId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Asks for the job to save a checkpoint, free its GPUs and wait until it is resumed. A queued job is paused at
    once. Until a running one has obeyed, `stop_requested` says `pause`."""
    return _answer(services.jobs.pause(principal.owner, job_id))


@router.post(
    "/v1/jobs/{job_id}/resume",
    summary="Resume a paused job",
    response_model=schemas.Job,
    responses={
        **example_of(examples.JOB, description="The job, queued again or still running."),
        **error_responses(404, 409, 422),
    },
)
def resume_job(job_id: JobId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Lets a paused job go on from its checkpoint. It keeps its place: among jobs of its priority the oldest goes
    first. A pause that a running job has not obeyed yet is taken back."""
    return _answer(services.jobs.resume(principal.owner, job_id))


@router.post(
    "/v1/jobs/{job_id}/retry",
    summary="Retry a job",
    response_model=schemas.Job,
    responses={**example_of(examples.JOB, description="The job, queued again."), **error_responses(404, 409, 422, 429)},
)
def retry_job(job_id: JobId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Queues a failed or cancelled job again: steps that are done are skipped, training goes on from its newest
    complete checkpoint."""
    return _answer(services.jobs.retry(principal.owner, job_id))


def _answer(job: JobView) -> Response:
    return json_response(render_job(job))
