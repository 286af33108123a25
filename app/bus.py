"""Live events and log lines over Redis Streams: bounded, best effort, never the record."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import redis
import redis.asyncio
import redis.exceptions

from app.breaker import Breaker
from app.stored_event import StoredEvent

PUBLISH_TIMEOUT_SECONDS = 0.4
NUM_KEPT_EVENTS = 2_000
NUM_KEPT_LOG_BATCHES = 2_000
KEEP_SECONDS = 24 * 3600

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamEntry:
    """One entry; `id` is `<attempt>-<number>`, the number an event's seq or a batch's last line."""

    stream: str
    id: str
    fields: Mapping[str, str]


def event_stream(job_id: str) -> str:
    """Key of a job's live events: entries with the fields `event` (JSON of a StoredEvent)."""
    return f"finesmith:job:{job_id}:events"


def log_stream(job_id: str) -> str:
    """Key of a job's live log: entries with the fields `first_line` and `lines` (JSON list)."""
    return f"finesmith:job:{job_id}:log"


class Bus:
    """Publishes; a failure costs at most half a second, then nothing for some seconds, and is only logged."""

    def __init__(self, redis_url: str) -> None:
        self._breaker = Breaker()
        self._redis: redis.Redis = redis.Redis.from_url(
            redis_url, socket_timeout=PUBLISH_TIMEOUT_SECONDS, socket_connect_timeout=PUBLISH_TIMEOUT_SECONDS
        )

    def publish_events(self, job_id: str, events: Sequence[StoredEvent]) -> None:
        """Appends events under the ids `<attempt>-<seq>`; Redis rejects an id that is not newer than the last."""
        entries = {f"{event.attempt}-{event.seq}": {"event": json.dumps(asdict(event))} for event in events}
        self._append(event_stream(job_id), entries, num_kept=NUM_KEPT_EVENTS)

    def publish_log(self, job_id: str, attempt: int, first_line: int, lines: Sequence[str]) -> None:
        """Appends a batch of log lines, of which the first has the number `first_line`."""
        if lines:
            fields = {"first_line": str(first_line), "lines": json.dumps(list(lines))}
            entry_id = f"{attempt}-{first_line + len(lines) - 1}"
            self._append(log_stream(job_id), {entry_id: fields}, num_kept=NUM_KEPT_LOG_BATCHES)

    def close(self) -> None:
        """Closes the connections."""
        self._redis.close()

    def _append(self, stream: str, entries: Mapping[str, Mapping[str, str]], *, num_kept: int) -> None:
        if self._breaker.is_open or not entries:
            return
        pipeline = self._redis.pipeline(transaction=False)
        for entry_id, fields in entries.items():
            pipeline.xadd(stream, dict(fields), id=entry_id, maxlen=num_kept, approximate=True)  # type: ignore[arg-type]
        pipeline.expire(stream, KEEP_SECONDS)
        try:
            results = pipeline.execute(raise_on_error=False)
        except (redis.exceptions.RedisError, OSError) as error:
            self._breaker.trip()
            logger.warning("%s not published: %s", stream, error)
            return
        rejected = [result for result in results if isinstance(result, redis.exceptions.RedisError)]
        if rejected:
            logger.debug("%s: %d entries rejected: %s", stream, len(rejected), rejected[0])


class AsyncBus:
    """Reads; errors of Redis are raised (redis.exceptions.RedisError): the caller falls back to the database."""

    def __init__(self, redis_url: str) -> None:
        self._redis: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
            redis_url, decode_responses=True, socket_connect_timeout=PUBLISH_TIMEOUT_SECONDS
        )

    async def read(self, streams: Mapping[str, str], block_ms: int, *, count: int = 500) -> list[StreamEntry]:
        """Entries after the given ids (`$`: only new ones); waits up to `block_ms` milliseconds for the first.

        An id that was trimmed away silently reads on at the oldest kept entry: compare numbers to see the gap.
        """
        if not streams:
            return []
        answer: Any = await self._redis.xread(dict(streams), count=count, block=block_ms)  # type: ignore[arg-type]
        pairs = answer.items() if isinstance(answer, dict) else answer or []
        return [
            StreamEntry(stream=stream, id=entry_id, fields=fields)
            for stream, entries in pairs
            for entry_id, fields in _flatten(entries)
        ]

    async def find_last_id(self, stream: str) -> str:
        """Id of a stream's newest entry, so that a reader can begin there and miss nothing; `0-0` when it has none."""
        newest: Any = await self._redis.xrevrange(stream, count=1)
        return str(newest[0][0]) if newest else "0-0"

    async def close(self) -> None:
        """Closes the connections."""
        await self._redis.aclose()


def _flatten(entries: Any) -> list[tuple[str, Mapping[str, str]]]:
    """RESP3 wraps a stream's entries in one more list than RESP2."""
    if entries and isinstance(entries[0], list):
        return [entry for batch in entries for entry in batch]
    return list(entries)
