"""For machines that watch this one: is it alive, can it take jobs, what does it count."""

from fastapi import APIRouter, Request, Security
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from app.api import schemas
from app.api.metrics import MetricsPage
from app.api.readiness import Readiness
from app.api.rendering import json_response
from app.api.responses import error_responses, example_of
from app.auth import MetricsBearer

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
async def get_readiness(request: Request) -> Response:
    """Asks the database, which is needed, and Redis, which is not, both at once. Answers within 2 seconds, also when
    one of them takes connections and says nothing. Needs no key."""
    readiness: Readiness = request.app.state.readiness
    found = await readiness.check()
    checks = {"database": _say(found.database), "redis": _say(found.redis)}
    status = "unavailable" if not found.database else "ready" if found.redis else "degraded"
    return json_response({"status": status, "checks": checks}, status=200 if found.database else 503)


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
async def get_metrics(request: Request) -> Response:
    """Answers jobs, queue, attempts, workers and GPUs of the whole installation, as any of its servers would, and the
    requests, streams and delays of this server. Needs a key with the scope `admin`, unless the installation says
    `FINESMITH_METRICS_PUBLIC`."""
    page: MetricsPage = request.app.state.metrics_page
    return Response(await page.render(), media_type=CONTENT_TYPE_LATEST)


def _say(is_answering: bool) -> str:
    return "ok" if is_answering else "does not answer"
