"""Previews: what the model would see of a file, before a job is submitted."""

import asyncio
import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.api import examples, schemas
from app.api.deps import PreviewId, PrincipalDep, ServicesDep
from app.api.live_wait import MAX_WAIT_SECONDS
from app.api.rendering import json_response, render_preview
from app.api.responses import error_responses, example_of
from app.api.services import Services
from app.previews.views import FINAL_PREVIEW_STATUSES, PreviewRequest, PreviewStatus, PreviewView

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 0.5

router = APIRouter(tags=["previews"])


@router.post(
    "/v1/previews",
    summary="Preview what a Config makes of a file",
    status_code=202,
    response_model=schemas.Preview,
    responses={
        **example_of(
            examples.QUEUED_PREVIEW,
            status=202,
            description="The preview will be rendered.",
            headers={"location": {"description": "Path of the preview.", "schema": {"type": "string"}}},
        ),
        **error_responses(400, 413, 422, 429),
    },
)
def create_preview(body: schemas.PreviewRequest, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Lets a worker render the first samples of a file as the Config's tokenizer, data set and collator do: every
    token, and which of them are learned; and counts over all rows.

    Config and file are checked at once, as for a job. No GPU is used and no job is waited for. The result is kept for
    a day.
    """
    request = PreviewRequest(config=body.config, file_id=body.file, num_samples=body.n)
    preview = services.previews.create(principal.owner, request)
    return json_response(render_preview(preview), status=202, headers={"location": f"/v1/previews/{preview.id}"})


@router.get(
    "/v1/previews/{preview_id}",
    summary="Get a preview",
    response_model=schemas.Preview,
    responses={
        **example_of(examples.PREVIEW, description="The preview as it is now."),
        **error_responses(404, 422),
    },
)
async def get_preview(
    request: Request,
    preview_id: PreviewId,
    services: ServicesDep,
    principal: PrincipalDep,
    wait: Annotated[
        float | None,
        Query(
            ge=0,
            le=MAX_WAIT_SECONDS,
            allow_inf_nan=False,
            description="Answer only when the preview has succeeded or failed, or after this many seconds.",
        ),
    ] = None,
) -> Response:
    """Answers the preview; with `wait` it waits for its end first, but no longer than that many seconds."""
    if wait:
        await _wait_until_over(services, request, principal.owner, preview_id, max_seconds=wait)
    preview: PreviewView = await run_in_threadpool(services.previews.get, principal.owner, preview_id)
    return json_response(render_preview(preview))


async def _wait_until_over(
    services: Services, request: Request, owner: str, preview_id: str, *, max_seconds: float
) -> None:
    """Returns when the preview is over, after `max_seconds`, or when the server stops or the client has left."""
    deadline = time.monotonic() + max_seconds
    pause_seconds = _FIRST_PAUSE_SECONDS
    while await _read_status(services, owner, preview_id) not in FINAL_PREVIEW_STATUSES:
        left_seconds = deadline - time.monotonic()
        if left_seconds <= 0 or services.live.is_stopping or await request.is_disconnected():
            return
        await asyncio.sleep(min(pause_seconds, left_seconds))
        pause_seconds = min(2 * pause_seconds, _LONGEST_PAUSE_SECONDS)


async def _read_status(services: Services, owner: str, preview_id: str) -> PreviewStatus:
    """In WAL mode a read of one row waits for no writer: no thread is needed where the database is a local file."""
    if not services.has_local_database:
        return await run_in_threadpool(services.previews.get_status, owner, preview_id)
    return services.previews.get_status(owner, preview_id)
