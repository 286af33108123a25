"""Workers: who they are, what they can do, and when they were last seen."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sqlalchemy import Row, insert, select, update

from app.db.clock import db_now
from app.db.models import workers
from app.db.session import SessionFactory, snapshot, transaction
from app.jobs import fleet
from app.jobs.catalogue import Catalogue, Installation, PluginError, merge_catalogues

ANNOUNCED_SECONDS = 24 * 3600.0
_CACHE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class GpuInfo:
    index: int
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class GpuReading:
    """How busy a GPU was at its worker's last sign of life; `utilization` is 0 to 1."""

    index: int
    memory_used_bytes: int
    utilization: float


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself; `slots` is how many jobs it runs at a time."""

    id: str
    host: str
    gpus: Sequence[GpuInfo]
    slots: int
    version: str
    catalogue: Catalogue
    plugin_errors: Sequence[PluginError] = ()


@dataclass(frozen=True, slots=True)
class WorkerView:
    id: str
    host: str
    gpus: tuple[GpuInfo, ...]
    slots: int
    status: Literal["online", "offline"]
    version: str
    last_seen_at: float
    plugin_errors: tuple[PluginError, ...] = ()
    gpu_readings: tuple[GpuReading, ...] = ()
    """Nothing of GPUs that do not say, and of those of a worker that is offline."""


class WorkerService:
    """Registers workers and answers what the installation can do."""

    def __init__(self, sessions: SessionFactory, *, live_seconds: float = 60.0) -> None:
        self._sessions = sessions
        self._live_seconds = live_seconds
        self._cached: tuple[float, Installation] | None = None

    def register(self, info: WorkerInfo) -> None:
        """Announces a worker, new or back again, and its catalogue."""
        digest = info.catalogue.digest
        values = {
            "host": info.host,
            "gpus": [asdict(gpu) for gpu in info.gpus],
            "slots": info.slots,
            "version": info.version,
            "catalogue_digest": digest,
            "plugin_errors": [asdict(error) for error in info.plugin_errors],
            "registered_at": db_now(),
            "last_seen_at": db_now(),
            "departed_at": None,
        }
        registries = {name: list(keys) for name, keys in info.catalogue.registries.items()}
        with transaction(self._sessions) as connection:
            fleet.store_catalogue(
                connection, digest=digest, registries=registries, configs=dict(info.catalogue.configs)
            )
            updated = connection.execute(update(workers).where(workers.c.id == info.id).values(values))
            if updated.rowcount == 0:
                connection.execute(insert(workers).values(id=info.id, **values))
        self._cached = None

    def heartbeat(self, worker_id: str, *, gpu_readings: Sequence[GpuReading] = ()) -> bool:
        """Notes that the worker lives, and how busy its GPUs are.

        False when it is not registered and should register again.
        """
        statement = update(workers).where(workers.c.id == worker_id)
        values = {
            "last_seen_at": db_now(),
            "departed_at": None,
            "gpu_readings": [asdict(each) for each in gpu_readings],
        }
        with transaction(self._sessions) as connection:
            return connection.execute(statement.values(values)).rowcount == 1

    def retire(self, worker_id: str) -> None:
        """Notes that the worker leaves; jobs that were sent to it and not begun go elsewhere."""
        with transaction(self._sessions) as connection:
            connection.execute(update(workers).where(workers.c.id == worker_id).values(departed_at=db_now()))
            fleet.withdraw_dispatches_to(connection, worker_id)

    def list(self) -> list[WorkerView]:
        """Workers seen in the last 24 hours, by id."""
        query = select(workers, (db_now() - workers.c.last_seen_at).label("age")).order_by(workers.c.id)
        with snapshot(self._sessions) as connection:
            rows = connection.execute(query.where(workers.c.last_seen_at > db_now() - ANNOUNCED_SECONDS)).all()
        return [self._view(row) for row in rows]

    def _view(self, row: Row[Any]) -> WorkerView:
        is_online = row.departed_at is None and row.age <= self._live_seconds
        return WorkerView(
            id=row.id,
            host=row.host,
            gpus=tuple(GpuInfo(**gpu) for gpu in row.gpus),
            slots=row.slots,
            status="online" if is_online else "offline",
            version=row.version,
            last_seen_at=row.last_seen_at,
            plugin_errors=tuple(PluginError(**error) for error in row.plugin_errors or ()),
            gpu_readings=tuple(GpuReading(**reading) for reading in row.gpu_readings or ()) if is_online else (),
        )

    def current_catalogue(self) -> Catalogue:
        """All that workers announced in the last 24 hours; before any did, what is built in."""
        return self.current_installation().catalogue

    def current_installation(self) -> Installation:
        """The catalogue and the largest host; at most 2 s old."""
        cached = self._cached
        if cached is not None and time.monotonic() - cached[0] < _CACHE_SECONDS:
            return cached[1]
        with snapshot(self._sessions) as connection:
            gpu_counts = fleet.list_announced_gpu_counts(connection, announced_seconds=ANNOUNCED_SECONDS)
            announced = fleet.list_announced_catalogues(connection, announced_seconds=ANNOUNCED_SECONDS)
            failed = fleet.list_plugin_errors(connection, live_seconds=self._live_seconds)
        installation = Installation(
            merge_catalogues(announced),
            most_gpus=max(gpu_counts, default=None),
            plugin_errors=tuple(PluginError(plugin, message) for plugin, message in failed),
        )
        self._cached = (time.monotonic(), installation)
        return installation
