"""The feeds of a job: where its events and log lines are, and how they are ordered."""

from collections.abc import Callable

from finesmith.follow import Feed
from finesmith.models.event import Event, LogLine
from finesmith.paths import api_path


def event_feed(job_id: str, *, is_over: Callable[[], bool]) -> Feed[Event]:
    """A job's events, numbered without holes."""
    return Feed(
        api_path("jobs", job_id, "events"),
        Event,
        position=lambda event: (event.seq,),
        cursor=lambda event: str(event.seq),
        is_over=is_over,
    )


def log_feed(job_id: str, *, is_over: Callable[[], bool]) -> Feed[LogLine]:
    """A job's log lines, numbered anew in each attempt."""
    return Feed(
        api_path("jobs", job_id, "logs"),
        LogLine,
        position=_log_position,
        cursor=lambda line: line.id,
        is_over=is_over,
    )


def _log_position(line: LogLine) -> tuple[int, ...]:
    numbers = line.id.split("-")
    return tuple(int(number) for number in numbers) if all(number.isdecimal() for number in numbers) else ()
