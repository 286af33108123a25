"""What a pool process needs of the service: built once in each process, after the fork."""

import threading
from dataclasses import dataclass, field
from typing import Self

from app.bus import Bus
from app.db.session import SessionFactory, build_engine
from app.jobs.service import JobService
from app.queue import WakeupQueue
from app.settings import Settings
from app.storage import Storage

_POOL_SIZE = 4
"""Connections of a pool process: its supervisor, its pumps, its lease keeper and its publisher."""


@dataclass(frozen=True, slots=True)
class Services:
    """The doors to database, storage, Redis and broker."""

    settings: Settings
    jobs: JobService
    storage: Storage
    bus: Bus
    recording: threading.Lock = field(default_factory=threading.Lock)
    """Held around a call that records events of a running job: published from two threads out of their order, the
    later number would make the live stream reject the earlier."""

    @classmethod
    def build(cls, settings: Settings) -> Self:
        """Builds all of them; connects to nothing yet."""
        sessions = SessionFactory(build_engine(settings.database_url, pool_size=_POOL_SIZE))
        storage = Storage.of(settings)
        bus = Bus(settings.redis_url)
        queue = WakeupQueue(settings.redis_url)
        jobs = JobService(sessions, settings=settings, storage=storage, queue=queue, bus=bus)
        return cls(settings=settings, jobs=jobs, storage=storage, bus=bus)
