"""For machines that watch this one: is it alive, can it take jobs, what does it count."""

import structlog
from fastapi import APIRouter, Request, Security
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.api import schemas
from app.api.deps import ServicesDep
from app.api.instruments import Instruments
from app.api.rendering import json_response
from app.api.responses import error_responses, example_of
from app.auth import MetricsBearer
from app.states import JobStatus

log = structlog.get_logger("finesmith.api")
open_router = APIRouter(tags=["health"])
metrics_router = APIRouter(tags=["health"])

_READY = {"status": "ready", "checks": {"database": "ok", "redis": "ok"}}
_UNAVAILABLE = {"status": "unavailable", "checks": {"database": "does not answer", "redis": "ok"}}
_METRICS = '# HELP finesmith_jobs Jobs by state.\n# TYPE finesmith_jobs gauge\nfinesmith_jobs{status="running"} 1.0\n'


@open_router.get(
    "/livez",
    summary="Is the server alive?",
    response_model=schemas.Liveness,
    responses=example_of({"status": "alive"}, description="It is."),
)
async def get_liveness() -> Response:
    """Answers as long as the process turns requests around; looks at nothing else. Needs no key."""
    return json_response({"status": "alive"})


@open_router.get(
    "/readyz",
    summary="Can the server take jobs?",
    response_model=schemas.Readiness,
    responses={
        **example_of(_READY, description="`ready`, or `degraded`: without Redis jobs run, live streams lag a second."),
        503: {
            "model": schemas.Readiness,
            "description": "The database does not answer.",
            "content": {"application/json": {"example": _UNAVAILABLE}},
        },
    },
)
async def get_readiness(services: ServicesDep) -> Response:
    """Asks the database, which is needed, and Redis, which is not. Needs no key."""
    checks = {"database": "ok", "redis": "ok"}
    if not await services.live.is_answering():
        checks["redis"] = "does not answer"
    status = "ready" if checks["redis"] == "ok" else "degraded"
    try:
        await run_in_threadpool(services.check_database)
    except SQLAlchemyError as error:
        log.error("database.unavailable", error=str(error))
        checks["database"] = "does not answer"
        return json_response({"status": "unavailable", "checks": checks}, status=503)
    return json_response({"status": status, "checks": checks})


@metrics_router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    dependencies=[Security(MetricsBearer())],
    responses={
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": _METRICS}},
        },
        **error_responses(403),
    },
)
def get_metrics(request: Request, services: ServicesDep) -> Response:
    """Answers jobs by state, requests, latencies and open streams. Needs a key with the scope `admin`, unless the
    installation says `FINESMITH_METRICS_PUBLIC`."""
    instruments: Instruments = request.app.state.instruments
    counts = services.jobs.count_by_status()
    for status in JobStatus:
        instruments.jobs.labels(status.value).set(counts.get(status, 0))
    return Response(generate_latest(instruments.registry), media_type=CONTENT_TYPE_LATEST)
