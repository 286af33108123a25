"""Where a stream's items come from: events out of the database, log lines out of storage, both also out of Redis."""

import json
import re
from dataclasses import dataclass
from typing import Protocol

from pydantic_core import to_json

from app.api.rendering import render_event, render_log_line
from app.bus import StreamEntry, event_stream, log_stream
from app.errors import ApiError
from app.jobs.service import JobService
from app.jobs.views import LogCursor, LogLine
from app.stored_event import StoredEvent

PAGE_SIZE = 500
# Fits the narrowest integer column that it is compared with.
_NUMBER = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Item:
    """One thing to send: its place (attempt, number), and its frame's id, name and JSON."""

    attempt: int
    number: int
    id: str
    event: str
    data: str


@dataclass(frozen=True, slots=True)
class Place:
    """The last item that was sent; number 0: none yet."""

    attempt: int
    number: int


class Feed(Protocol):
    """The source of one stream; its calls to the core block, so they run in threads."""

    stream: str
    """Key of the Redis stream."""
    stored_first: bool
    """True if whatever is in Redis is stored as well."""

    def read_stored(self, place: Place) -> list[Item]:
        """At most one page of what is stored behind `place`; empty at the end."""
        ...

    def parse(self, entry: StreamEntry) -> list[Item]:
        """The items of one Redis entry."""
        ...

    def follows(self, place: Place, item: Item) -> bool:
        """True if nothing can lie between the two."""
        ...

    def begins_attempt(self, place: Place, item: Item) -> bool:
        """True if only the end of an earlier attempt can lie between the two, which is stored by now."""
        ...

    def is_behind(self, place: Place, item: Item) -> bool:
        """True if `item` lies behind `place`, so that it has not been sent."""
        ...


class EventFeed:
    """A job's events, all of them or those of one type; numbered over all attempts."""

    stored_first = True

    def __init__(self, jobs: JobService, owner: str, job_id: str, *, only_type: str | None = None) -> None:
        self.stream = event_stream(job_id)
        self._jobs, self._owner, self._job_id, self._only_type = jobs, owner, job_id, only_type

    def read_stored(self, place: Place) -> list[Item]:
        """Reads all types, so that the place moves on over those that are left out."""
        page = self._jobs.list_events(self._owner, self._job_id, after_seq=place.number, limit=PAGE_SIZE)
        return [self._build_item(event) for event in page.data]

    def parse(self, entry: StreamEntry) -> list[Item]:
        """One entry is one event."""
        return [self._build_item(StoredEvent(**json.loads(entry.fields["event"])))]

    def follows(self, place: Place, item: Item) -> bool:
        """Numbers have no holes."""
        return item.number == place.number + 1

    def begins_attempt(self, place: Place, item: Item) -> bool:
        """Numbers go on over all attempts."""
        return False

    def is_behind(self, place: Place, item: Item) -> bool:
        """Whatever the attempt."""
        return item.number > place.number

    def _build_item(self, event: StoredEvent) -> Item:
        wanted = self._only_type in (None, event.type)
        data = to_json(render_event(event), inf_nan_mode="null").decode() if wanted else ""
        return Item(event.attempt, event.seq, str(event.seq), event.type, data)


class LogFeed:
    """A job's log lines, numbered from 1 in each attempt; Redis has them some seconds before storage."""

    stored_first = False

    def __init__(self, jobs: JobService, owner: str, job_id: str) -> None:
        self.stream = log_stream(job_id)
        self._jobs, self._owner, self._job_id = jobs, owner, job_id

    def read_stored(self, place: Place) -> list[Item]:
        """Out of the stored chunks, which are a few seconds old at most."""
        after = LogCursor(place.attempt, place.number) if place.attempt else None
        page = self._jobs.list_log_lines(self._owner, self._job_id, after=after, limit=PAGE_SIZE)
        return [self._build_item(line) for line in page.data]

    def parse(self, entry: StreamEntry) -> list[Item]:
        """One entry is a batch of lines."""
        attempt, first = int(entry.id.partition("-")[0]), int(entry.fields["first_line"])
        texts = json.loads(entry.fields["lines"])
        return [self._build_item(LogLine(attempt, first + offset, text)) for offset, text in enumerate(texts)]

    def follows(self, place: Place, item: Item) -> bool:
        """The next line of the same attempt, or the very first."""
        place = Place(1, 0) if place.attempt == 0 else place
        return item.attempt == place.attempt and item.number == place.number + 1

    def begins_attempt(self, place: Place, item: Item) -> bool:
        """A later attempt is claimed only after the earlier one has stored its last line, or cannot any more."""
        return item.attempt > place.attempt and item.number == 1

    def is_behind(self, place: Place, item: Item) -> bool:
        """A later attempt lies behind every line of an earlier one."""
        return (item.attempt, item.number) > (place.attempt, place.number)

    def _build_item(self, line: LogLine) -> Item:
        data = to_json(render_log_line(line)).decode()
        return Item(line.attempt, line.line, f"{line.attempt}-{line.line}", "log", data)


def parse_event_place(text: str | None) -> Place:
    """Reads `17` or `evt-17`; raises ApiError (422) for anything else."""
    number = (text or "0").removeprefix("evt-")
    if not _NUMBER.fullmatch(number):
        raise _wrong_place("the `seq` of an event, such as `17`")
    return Place(0, int(number))


def parse_log_place(text: str | None) -> Place:
    """Reads `<attempt>-<line>`; raises ApiError (422) for anything else."""
    if text is None:
        return Place(0, 0)
    attempt, _, line = text.partition("-")
    if not (_NUMBER.fullmatch(attempt) and _NUMBER.fullmatch(line)):
        raise _wrong_place("the id of a log line, such as `1-42`")
    return Place(int(attempt), int(line))


def _wrong_place(expected: str) -> ApiError:
    return ApiError(
        f"`after` (or `Last-Event-ID`) has to be {expected}.", status=422, code="invalid_value", param="after"
    )
