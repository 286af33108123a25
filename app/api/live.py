"""Hands what Redis says about jobs to the open streams of this process: one reader for all, nothing unbounded."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import structlog
from redis.exceptions import RedisError

from app.bus import AsyncBus, StreamEntry
from app.errors import ApiError, Unavailable

NUM_QUEUED_ENTRIES = 256
"""A stream that is further behind drops its queue and reads on from the database."""
MAX_SUBSCRIPTIONS = 2_000
BLOCK_MS = 1_000
READ_TIMEOUT_SECONDS = 5.0
"""A reader that hears nothing this long after its block is over has lost its link."""
RECONNECT_SECONDS = 1.0
PING_TIMEOUT_SECONDS = 1.0
POLL_SECONDS = 5.0
"""How often a stream looks into the database although Redis is up: a publisher may have failed unseen."""
POLL_WITHOUT_REDIS_SECONDS = 1.0
RETRY_AFTER_SECONDS = 5
NEW_ENTRIES = "$"
"""A position that is not known yet: what is added from now on."""

log = structlog.get_logger("finesmith.live")


@dataclass(eq=False)
class Subscription:
    """What one stream has yet to look at."""

    streams: frozenset[str]
    """Keys of Redis streams."""
    entries: deque[StreamEntry] = field(default_factory=deque)
    is_lagging: bool = False
    """True when entries were dropped: the database has them."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, entry: StreamEntry) -> None:
        """Queues an entry, or drops everything when the queue is full."""
        if len(self.entries) >= NUM_QUEUED_ENTRIES:
            self.lose()
        if not self.is_lagging:
            self.entries.append(entry)
        self.wake.set()

    def lose(self) -> None:
        """Drops what is queued: the stream reads on from the database."""
        self.entries.clear()
        self.is_lagging = True
        self.wake.set()

    def take(self) -> list[StreamEntry]:
        """Returns and removes what is queued; resets `is_lagging`."""
        taken = list(self.entries)
        self.entries.clear()
        self.is_lagging = False
        self.wake.clear()
        return taken


class LiveHub:
    """One a process. Runs a task from the first subscription to `close`."""

    def __init__(
        self, bus: AsyncBus, *, max_streams_per_owner: int = 200, stream_lifetime_seconds: float = 600.0
    ) -> None:
        self.bus = bus
        self.stream_lifetime_seconds = stream_lifetime_seconds
        self._max_streams_per_owner = max_streams_per_owner
        self._num_streams_of: Counter[str] = Counter()
        self.is_connected = False
        self.is_stopping = False
        self._subscriptions: set[Subscription] = set()
        self._watchers: dict[str, set[Subscription]] = {}
        self._positions: dict[str, str] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def poll_seconds(self) -> float:
        """How long a stream may trust that nothing happened."""
        return POLL_SECONDS if self.is_connected else POLL_WITHOUT_REDIS_SECONDS

    @contextmanager
    def admit_stream(self, owner: str) -> Iterator[None]:
        """Counts a stream of this owner while it is open. Raises ApiError (429) or Unavailable before it begins."""
        if self._num_streams_of[owner] >= self._max_streams_per_owner:
            message = f"{self._max_streams_per_owner} of your event streams are open on this server; close some."
            headers = {"retry-after": str(RETRY_AFTER_SECONDS)}
            raise ApiError(message, status=429, code="too_many_streams", headers=headers)
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Unavailable("Too many event streams are open on this server.", code="too_many_streams")
        self._num_streams_of[owner] += 1
        try:
            yield
        finally:
            self._num_streams_of[owner] -= 1
            if not self._num_streams_of[owner]:
                del self._num_streams_of[owner]

    @asynccontextmanager
    async def subscribe(self, streams: Iterable[str]) -> AsyncIterator[Subscription]:
        """Entries that are added from now on. Raises Unavailable when too many streams are open."""
        if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Unavailable("Too many event streams are open on this server.", code="too_many_streams")
        subscription = Subscription(frozenset(streams))
        self._subscriptions.add(subscription)
        for stream in subscription.streams:
            self._watchers.setdefault(stream, set()).add(subscription)
        try:
            await self._watch(subscription.streams)
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            for stream in subscription.streams:
                self._watchers[stream].discard(subscription)
                if not self._watchers[stream]:
                    del self._watchers[stream]
                    self._positions.pop(stream, None)

    async def is_answering(self) -> bool:
        """Asks Redis; False when it says nothing within a second."""
        try:
            async with asyncio.timeout(PING_TIMEOUT_SECONDS):
                await self.bus.find_last_id("finesmith:readiness")
        except (RedisError, OSError, TimeoutError):
            return False
        return True

    async def read_after(self, stream: str, position: str) -> list[StreamEntry]:
        """What Redis has now behind this id; nothing when it does not answer."""
        if not self.is_connected:
            return []
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                return await self.bus.read({stream: position}, 1)
        except (RedisError, OSError, TimeoutError):
            return []

    def stop(self) -> None:
        """Ends all streams and waits soon; call it in the event loop's thread when the server begins to stop."""
        self.is_stopping = True
        self._wake_all()

    async def close(self) -> None:
        """Ends the reader and closes its connections."""
        self.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.bus.close()

    async def _watch(self, streams: Iterable[str]) -> None:
        for stream in streams:
            if stream in self._positions:
                continue
            position = NEW_ENTRIES
            # Whether a Redis that was lost is back finds the reader out; a stream must not wait for it meanwhile.
            if self.is_connected or self._task is None:
                try:
                    async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                        position = await self.bus.find_last_id(stream)
                    self.is_connected = True
                except (RedisError, OSError, TimeoutError):
                    self.is_connected = False
            self._positions.setdefault(stream, position)
        self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="live-reader")

    async def _run(self) -> None:
        while True:
            if not self._positions:
                await self._changed.wait()
            self._changed.clear()
            try:
                self._deliver(await self._read_until_change())
            except (RedisError, OSError, TimeoutError) as error:
                if self.is_connected:
                    log.warning("redis.lost", error=str(error))
                self.is_connected = False
                self._wake_all()
                await asyncio.sleep(RECONNECT_SECONDS)

    async def _read_until_change(self) -> list[StreamEntry]:
        """One blocking read over all streams, cut short when a new one is to be watched."""
        for stream in [name for name, position in self._positions.items() if position == NEW_ENTRIES]:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                last_id = await self.bus.find_last_id(stream)
            if stream in self._positions:
                self._positions[stream] = last_id
                # Between its last look into the database and now it may have missed something.
                for subscription in self._watchers.get(stream, ()):
                    subscription.lose()
        positions = dict(self._positions)
        if not positions:
            return []
        read = asyncio.create_task(self.bus.read(positions, BLOCK_MS))
        change = asyncio.create_task(self._changed.wait())
        try:
            timeout = BLOCK_MS / 1000 + READ_TIMEOUT_SECONDS
            done, _ = await asyncio.wait({read, change}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                raise TimeoutError("Redis does not answer")
            if read not in done:
                return []
            entries = read.result()
            self.is_connected = True
            return entries
        finally:
            await _cancel({read, change})

    def _deliver(self, entries: Iterable[StreamEntry]) -> None:
        for entry in entries:
            if entry.stream in self._positions:
                self._positions[entry.stream] = entry.id
            for subscription in self._watchers.get(entry.stream, ()):
                subscription.offer(entry)

    def _wake_all(self) -> None:
        for subscription in self._subscriptions:
            subscription.wake.set()


async def _cancel(tasks: Iterable[asyncio.Task[object]]) -> None:
    pending = [task for task in tasks if not task.done()]
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
