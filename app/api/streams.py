"""Server-sent events of one job: what is stored, then what happens, until the job is over."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass

import structlog
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.api.feeds import Feed, Item, Place
from app.api.instruments import Instruments
from app.api.live import LiveHub, Subscription
from app.bus import StreamEntry, event_stream
from app.errors import ApiError, build_error_response
from app.jobs.errors import JobNotFound
from app.jobs.service import JobService
from app.states import FINAL_STATUSES

PING_SECONDS = 15.0
RECONNECT_MS = 2_000
MAX_GAP_SECONDS = 15.0
"""How long a hole in the log may stay open: its chunk is stored within a few seconds, or its writer is dead."""
FINAL_EVENTS = frozenset(f"job.{status}" for status in FINAL_STATUSES)


log = structlog.get_logger("finesmith.streams")


class EventStream(StreamingResponse):
    """The response: counts itself, and closes its generator also when the client left in the middle of a frame."""

    media_type = "text/event-stream"

    def __init__(
        self, frames: AsyncGenerator[bytes, None], *, hub: LiveHub, owner: str, instruments: Instruments
    ) -> None:
        # x-accel-buffering: nginx would hold events back.
        super().__init__(frames, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._frames = frames
        self._hub = hub
        self._owner = owner
        self._instruments = instruments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers an error instead when the owner, or everybody, has too many streams open."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._hub.admit_stream(self._owner))
            except ApiError as error:
                await build_error_response(error)(scope, receive, send)
                return
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """As the base class does it, with a sure end."""
        self._instruments.streams.inc()
        try:
            async with aclosing(self._frames):
                await super().stream_response(send)
        finally:
            self._instruments.streams.dec()


@dataclass(frozen=True)
class JobFollowing:
    """What one client follows, and from where."""

    owner: str
    job_id: str
    feed: Feed
    place: Place
    has_valid_key: Callable[[], bool]
    """Whether the client may still follow it; blocks for a look at the database."""


class _KeyEndedError(Exception):
    """The key that opened the stream has been revoked, or has expired."""


class JobStream:
    """One client's walk along one feed. Holds no thread and no database connection while it waits."""

    def __init__(self, hub: LiveHub, jobs: JobService, following: JobFollowing) -> None:
        self._hub, self._jobs, self._feed = hub, jobs, following.feed
        self._owner, self._job_id, self._place = following.owner, following.job_id, following.place
        self._has_valid_key = following.has_valid_key
        self._gap_since: float | None = None
        self._sent_at = time.monotonic()
        # Streams that were opened together, after a restart, should not all come back together.
        self._ends_at = self._sent_at + hub.stream_lifetime_seconds * random.uniform(0.8, 1.0)

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """Yields encoded frames; ends with `event: end` after the job's end. Without it the client is to come back:
        the server stops, the stream's lifetime is over, or database or storage do not answer; or its key has ended."""
        yield format_sse_event(retry=RECONNECT_MS)
        try:
            async for frame in self._walk():
                yield frame
        except _KeyEndedError:
            log.info("stream.key_ended", job_id=self._job_id)
        except (SQLAlchemyError, OSError) as error:
            log.warning("stream.cut", job_id=self._job_id, error=f"{type(error).__name__}: {error}")

    async def _walk(self) -> AsyncIterator[bytes]:
        async for frame in self._send_stored():
            yield frame
        # Both streams: that the job is over stands among its events, also for those who follow its log.
        async with self._hub.subscribe({event_stream(self._job_id), self._feed.stream}) as subscription:
            while not self._is_over():
                status = await run_in_threadpool(self._read_status)
                is_final = status is None or status in FINAL_STATUSES
                async for frame in self._catch_up(is_final=is_final):
                    yield frame
                if is_final and not self._is_over():
                    yield format_sse_event(event="end", data_str=json.dumps({"status": status or "deleted"}))
                    return
                async for frame in self._follow(subscription):
                    yield frame
        yield format_sse_event(retry=random.randint(RECONNECT_MS // 4, RECONNECT_MS))

    def _is_over(self) -> bool:
        return self._hub.is_stopping or time.monotonic() >= self._ends_at

    def _read_status(self) -> str | None:
        if not self._has_valid_key():
            raise _KeyEndedError
        try:
            return self._jobs.get(self._owner, self._job_id).status
        except JobNotFound:
            return None

    async def _send_stored(self) -> AsyncIterator[bytes]:
        while not self._is_over():
            try:
                items = await run_in_threadpool(self._feed.read_stored, self._place)
            except JobNotFound:
                return
            for item in items:
                if self._lies_behind_hole(item):
                    yield self._tell_gap(item)
                yield self._send(item)
            if not items:
                return

    async def _catch_up(self, *, is_final: bool) -> AsyncIterator[bytes]:
        async for frame in self._send_stored():
            yield frame
        if self._feed.stored_first:
            return
        while entries := await self._hub.read_after(self._feed.stream, f"{self._place.attempt}-{self._place.number}"):
            items = [item for entry in entries for item in self._feed.parse(entry)]
            before = self._place
            async for frame in self._send_following(items, is_final=is_final):
                yield frame
            if self._place == before:
                return

    async def _send_following(self, items: list[Item], *, is_final: bool) -> AsyncIterator[bytes]:
        for item in items:
            if self._feed.is_behind(self._place, item) and self._feed.begins_attempt(self._place, item):
                async for frame in self._send_stored():
                    yield frame
            if not self._feed.is_behind(self._place, item):
                continue
            if self._lies_behind_hole(item):
                if not (is_final or self._gap_is_old()):
                    return
                yield self._tell_gap(item)
            yield self._send(item)

    async def _follow(self, subscription: Subscription) -> AsyncIterator[bytes]:
        """Sends what comes until something has to be looked up: a hole, an end, or a long silence."""
        started = time.monotonic()
        while not self._is_over() and (left := started + self._poll_seconds() - time.monotonic()) > 0:
            await wait_for_entries(subscription, min(left, PING_SECONDS, max(0.0, self._ends_at - time.monotonic())))
            was_lagging, entries = subscription.is_lagging, subscription.take()
            if was_lagging:
                return
            for entry in entries:
                for item in self._find_new(entry):
                    if not self._feed.follows(self._place, item):
                        self._gap_since = self._gap_since or time.monotonic()
                        return
                    yield self._send(item)
                if says_job_is_over(entry):
                    return
            if time.monotonic() - self._sent_at >= PING_SECONDS:
                self._sent_at = time.monotonic()
                yield KEEPALIVE_COMMENT

    def _lies_behind_hole(self, item: Item) -> bool:
        return not (self._feed.follows(self._place, item) or self._feed.begins_attempt(self._place, item))

    def _tell_gap(self, item: Item) -> bytes:
        data = json.dumps({"after": f"{self._place.attempt}-{self._place.number}", "before": item.id})
        return format_sse_event(event="gap", data_str=data)

    def _find_new(self, entry: StreamEntry) -> Iterator[Item]:
        if entry.stream == self._feed.stream:
            yield from (item for item in self._feed.parse(entry) if self._feed.is_behind(self._place, item))

    def _send(self, item: Item) -> bytes:
        """Moves on to the item; returns its frame, no bytes when the client did not ask for such."""
        self._place, self._gap_since = Place(item.attempt, item.number), None
        if not item.data:
            return b""
        self._sent_at = time.monotonic()
        return format_sse_event(event=item.event, data_str=item.data, id=item.id)

    def _poll_seconds(self) -> float:
        return min(self._hub.poll_seconds, 1.0) if self._gap_since else self._hub.poll_seconds

    def _gap_is_old(self) -> bool:
        self._gap_since = self._gap_since or time.monotonic()
        return time.monotonic() - self._gap_since > MAX_GAP_SECONDS


async def wait_for_entries(subscription: Subscription, timeout_seconds: float) -> None:
    """Returns when there is something to take, when the hub wants attention, or after the timeout."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_seconds):
            await subscription.wake.wait()
    subscription.wake.clear()


def says_job_is_over(entry: StreamEntry) -> bool:
    """True for the event of a final state (a retry may still follow: ask the database)."""
    return "event" in entry.fields and json.loads(entry.fields["event"])["type"] in FINAL_EVENTS
