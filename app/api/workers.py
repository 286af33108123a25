"""The workers of this installation."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api import examples, schemas
from app.api.deps import PrincipalDep, ServicesDep
from app.api.rendering import json_response, render_list, render_worker
from app.api.responses import example_of

router = APIRouter(tags=["installation"])


@router.get(
    "/v1/workers",
    summary="List the workers",
    response_model=schemas.ListOf[schemas.Worker],
    responses=example_of(examples.list_of(examples.WORKER), description="The workers, and whether they are there."),
)
def list_workers(services: ServicesDep, principal: PrincipalDep) -> Response:
    """Answers the workers with their GPUs. One that has not been heard of for a lease's time is `offline`."""
    return json_response(render_list(map(render_worker, services.workers.list()), has_more=False))
