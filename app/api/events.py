"""What happens in a job: events, log lines and metrics, as lists or as streams."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.api import examples, schemas
from app.api.deps import JobId, PrincipalDep, ServicesDep
from app.api.downloads import send_content
from app.api.feeds import EventFeed, Feed, LogFeed, Place, parse_event_place, parse_log_place
from app.api.log_text import LogText
from app.api.rendering import json_response, render_event, render_list, render_log_line
from app.api.responses import error_responses, log_of, stream_of
from app.api.services import Services
from app.api.streams import EventStream, JobFollowing, JobStream
from app.auth import read_key
from app.jobs.views import LogCursor

METRICS_TYPE = "metrics"

router = APIRouter(tags=["events"])

_STREAMING = """

With `Accept: text/event-stream` it answers server-sent events instead: first what lies behind `Last-Event-ID` (or
`after`), then what happens, with a comment at least every 15 seconds; `event: end` says that the job is over. A stream
that ends without it was cut off, as every one is after some minutes: connect again with the last id."""

_TEXT = """

With `Accept: text/plain` it answers all that is stored of the output as text, attempt after attempt. It takes `Range`,
so that a growing log can be read on from where one was; once the job is over, also `If-None-Match`."""


@dataclass(frozen=True)
class Reading:
    """Which part of a job's story is asked for, and how."""

    after: str | None
    limit: int
    wants_stream: bool
    wants_text: bool


async def read_reading(
    request: Request,
    after: Annotated[
        str | None,
        Query(max_length=64, description="What was seen last: an event's `seq` (`17`), a log line's id (`1-42`)."),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Longest list to answer; a stream has no limit.")] = 100,
    last_event_id: Annotated[
        str | None,
        Header(alias="Last-Event-ID", max_length=64, description="For streams: as `after`, and stronger."),
    ] = None,
) -> Reading:
    """The query of all three calls."""
    accepted = request.headers.get("accept", "")
    wants_stream, wants_text = "text/event-stream" in accepted, "text/plain" in accepted
    place = (last_event_id if wants_stream else None) or after
    return Reading(place, limit, wants_stream, wants_text=wants_text and "application/json" not in accepted)


ReadingDep = Annotated[Reading, Depends(read_reading)]


@router.get(
    "/v1/jobs/{job_id}/events",
    summary="List or follow a job's events",
    description="Answers the events after the one numbered `after`, the oldest first." + _STREAMING,
    response_model=schemas.ListOf[schemas.Event],
    responses={
        **stream_of(examples.EVENT, event="metrics", event_id="7", description="The events, or a stream of them."),
        **error_responses(404, 422, 429, 503),
    },
)
async def list_job_events(
    request: Request, job_id: JobId, services: ServicesDep, principal: PrincipalDep, reading: ReadingDep
) -> Response:
    """Events as they happened."""
    place = parse_event_place(reading.after)
    if reading.wants_stream:
        feed = EventFeed(services.jobs, principal.owner, job_id)
        return await _open_stream(request, feed, owner=principal.owner, job_id=job_id, place=place)
    return await run_in_threadpool(_list_events, services, principal.owner, job_id, place=place, limit=reading.limit)


@router.get(
    "/v1/jobs/{job_id}/metrics",
    summary="List or follow a job's metrics",
    description="Answers the training log: the events of type `metrics`, the oldest first; `data` holds `global_step`, "
    "`loss`, `learning_rate`, `tokens_per_second`, `eval_loss` …" + _STREAMING,
    response_model=schemas.ListOf[schemas.Event],
    responses={
        **stream_of(examples.EVENT, event="metrics", event_id="7", description="The metrics, or a stream of them."),
        **error_responses(404, 422, 429, 503),
    },
)
async def list_job_metrics(
    request: Request, job_id: JobId, services: ServicesDep, principal: PrincipalDep, reading: ReadingDep
) -> Response:
    """The events of one type."""
    place = parse_event_place(reading.after)
    if reading.wants_stream:
        feed = EventFeed(services.jobs, principal.owner, job_id, only_type=METRICS_TYPE)
        return await _open_stream(request, feed, owner=principal.owner, job_id=job_id, place=place)
    return await run_in_threadpool(
        _list_events, services, principal.owner, job_id, place=place, limit=reading.limit, types=(METRICS_TYPE,)
    )


@router.get(
    "/v1/jobs/{job_id}/logs",
    summary="List, follow or download a job's log",
    description="Answers what the job's steps printed, after the line with the id `after`; secrets are blotted out."
    + _STREAMING
    + _TEXT,
    response_model=schemas.ListOf[schemas.LogLine],
    responses={
        **log_of(examples.LOG_LINE, event="log", event_id="1-42", description="The lines, a stream or a text of them."),
        **error_responses(404, 416, 422, 429, 503),
    },
)
async def list_job_logs(
    request: Request, job_id: JobId, services: ServicesDep, principal: PrincipalDep, reading: ReadingDep
) -> Response:
    """Lines out of storage, then live; or all of them as text."""
    place = parse_log_place(reading.after)
    if reading.wants_stream:
        feed = LogFeed(services.jobs, principal.owner, job_id)
        return await _open_stream(request, feed, owner=principal.owner, job_id=job_id, place=place)
    if reading.wants_text:
        return await run_in_threadpool(_send_log, request, services, principal.owner, job_id)
    return await run_in_threadpool(_list_logs, services, principal.owner, job_id, place=place, limit=reading.limit)


def _send_log(request: Request, services: Services, owner: str, job_id: str) -> Response:
    return send_content(request, services.storage, LogText(job_id, services.jobs.find_log(owner, job_id)))


def _list_events(
    services: Services, owner: str, job_id: str, *, place: Place, limit: int, types: tuple[str, ...] | None = None
) -> Response:
    page = services.jobs.list_events(owner, job_id, after_seq=place.number, limit=limit, types=types)
    return json_response(render_list(map(render_event, page.data), has_more=page.has_more))


def _list_logs(services: Services, owner: str, job_id: str, *, place: Place, limit: int) -> Response:
    after = LogCursor(place.attempt, place.number) if place.attempt else None
    page = services.jobs.list_log_lines(owner, job_id, after=after, limit=limit)
    return json_response(render_list(map(render_log_line, page.data), has_more=page.has_more))


async def _open_stream(request: Request, feed: Feed, *, owner: str, job_id: str, place: Place) -> Response:
    """Answers 404 before the stream begins."""
    services: Services = request.app.state.services
    await run_in_threadpool(services.jobs.get, owner, job_id)
    key = read_key(request.headers)
    following = JobFollowing(owner, job_id, feed, place, lambda: services.keys.authenticate(key) is not None)
    frames = JobStream(services.live, services.jobs, following).frames()
    instruments = request.app.state.instruments
    return EventStream(frames, hub=services.live, owner=owner, instruments=instruments)
