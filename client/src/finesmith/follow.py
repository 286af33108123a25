"""Follows a job's events or log lines while they come: a stream that is resumed, and polling where streams fail."""

import json
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import httpx2

from finesmith.errors import APIConnectionError, APIError, APIStatusError, APITimeoutError, UnexpectedResponseError
from finesmith.pages import LONG_PAGES, ListQuery, fetch_page
from finesmith.retry import Outage
from finesmith.transport import Call, Transport
from finesmith.wire import decode

Item = TypeVar("Item")

DEAD_STREAMS_BEFORE_POLLING = 2
"""Streams in a row that were opened and gave nothing, as behind a proxy that holds answers back."""

SILENCE_SECONDS = 45.0
"""The service sends a sign of life every 15 s; three missed ones mean that the connection is dead."""

LONG_LIFE_SECONDS = 30.0
"""A stream that lived this long worked, even if there was nothing to say: the service ends streams by their age."""


@dataclass(frozen=True)
class Feed(Generic[Item]):
    """One of a job's lists that grow while the job runs."""

    path: str
    """Of the list and of its stream alike."""
    model: type[Item]
    position: Callable[[Item], tuple[int, ...]]
    """Where an item stands; grows along the feed."""
    cursor: Callable[[Item], str]
    """What `after` and `Last-Event-ID` take to go on behind an item."""
    is_over: Callable[[], bool]
    """Asks the service whether nothing more will come. Asked in polling only."""


class Follower(Generic[Item]):
    """Iterates over a feed until its end, through dropped connections; repeats nothing and leaves nothing out.

    Raises an APIError when the service refuses, or is away for longer than `max_outage_seconds`.
    """

    def __init__(self, transport: Transport, feed: Feed[Item], *, after: str | None) -> None:
        self._transport = transport
        self._feed = feed
        self._cursor = after
        self._last: tuple[int, ...] = ()
        self._outage = Outage(transport.settings.retry)
        self._num_dead_streams = 0

    def __iter__(self) -> Iterator[Item]:
        while self._num_dead_streams < DEAD_STREAMS_BEFORE_POLLING:
            opened_at = time.monotonic()
            try:
                is_at_end = yield from self._read_stream()
                if is_at_end:
                    return
                error: APIError = APIConnectionError(f"The stream {self._feed.path} ended before its end.")
            except APIError as failure:
                error = failure
                # A service that cannot be reached at all is no reason to poll it.
                self._num_dead_streams += isinstance(failure, APIStatusError)
            if time.monotonic() - opened_at >= LONG_LIFE_SECONDS and not isinstance(error, APITimeoutError):
                self._note_success()
            time.sleep(self._outage.delay_after(error))
        yield from self._poll()

    def _note_success(self) -> None:
        self._outage.end()
        self._num_dead_streams = 0

    def _read_stream(self) -> Generator[Item, None, bool]:
        """One connection. Returns whether the service said that this is the end."""
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        if self._cursor is not None:
            headers["Last-Event-ID"] = self._cursor
        call = Call("GET", self._feed.path, headers=headers, read_timeout_seconds=SILENCE_SECONDS)
        with self._transport.open_stream(call) as response:
            self._num_dead_streams += 1
            for message in httpx2.EventSource(response):
                if message.event == "end":
                    return True
                yield from self._take(message)
        return False

    def _take(self, message: httpx2.ServerSentEvent) -> Iterator[Item]:
        try:
            value = json.loads(message.data) if message.data else None
        except ValueError as error:
            raise UnexpectedResponseError(f"The stream {self._feed.path} sent what is no JSON.") from error
        # What carries no item needs no answer: `gap` says that the service itself has lost log lines, and the next
        # line's number says so too.
        if isinstance(value, dict) and "id" in value:
            yield from self._pass_on(decode(self._feed.model, value))

    def _pass_on(self, item: Item) -> Iterator[Item]:
        position = self._feed.position(item)
        if position > self._last:
            self._note_success()
            self._last = position
            self._cursor = self._feed.cursor(item)
            yield item

    def _poll(self) -> Iterator[Item]:
        num_idle_polls = 0
        while True:
            try:
                # Asked before the list is read, so that what came in between is still read.
                is_over = self._feed.is_over()
                query = ListQuery(self._feed.path, self._feed.model, params=LONG_PAGES).starting_after(self._cursor)
                page = fetch_page(self._transport, query)
            except APIError as error:
                time.sleep(self._outage.delay_after(error))
                continue
            self._outage.end()
            for item in page.data:
                yield from self._pass_on(item)
            if page.data and page.has_more:
                continue
            if is_over:
                return
            num_idle_polls = 0 if page.data else num_idle_polls + 1
            time.sleep(self._transport.settings.retry.delay_seconds(num_idle_polls + 1))
