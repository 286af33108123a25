"""Reads stored log chunks back as numbered lines."""

from collections.abc import Iterable

from app.jobs.views import LogCursor, LogLine
from app.storage import Storage


def read_lines(
    storage: Storage, chunks: Iterable[tuple[LogCursor, str]], *, after: LogCursor | None, limit: int
) -> list[LogLine]:
    """At most `limit` lines after the cursor from chunks given in order as (first line, storage key).

    A chunk that is gone from storage leaves a gap in the numbers.
    """
    found: list[LogLine] = []
    for first, storage_key in chunks:
        try:
            with storage.open(storage_key) as stream:
                content = stream.read()
        except FileNotFoundError:
            continue
        # Not splitlines: it would also cut at characters that are part of a line.
        for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=first.line):
            if after is None or LogCursor(first.attempt, number) > after:
                found.append(LogLine(first.attempt, number, line.decode("utf-8", "replace")))
        if len(found) >= limit:
            break
    return found[:limit]
