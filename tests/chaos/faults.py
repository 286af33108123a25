"""What can happen to an installation: kills, freezes, deploys, and owners who change their minds."""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.chaos.client import Unanswered
from tests.chaos.plant import Part, Plant
from tests.chaos.processes import Census, Process, kill_all, take_census


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that was injected."""

    kind: str
    at: float
    """Unix seconds."""
    target: str
    job_ids: tuple[str, ...] = ()
    """Jobs whose supervisor died of it."""
    seconds: float = 0.0
    """How long a freeze lasts."""


class Freezer:
    """Freezes processes and lets each go on after its time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._frozen: dict[int, float] = {}

    def freeze(self, pids: Sequence[int], seconds: float) -> None:
        """SIGSTOP now; `thaw_due` goes on with them when the time is over."""
        with self._lock:
            for pid in pids:
                if _signal(pid, signal.SIGSTOP):
                    self._frozen[pid] = time.monotonic() + seconds

    def thaw_due(self, *, all_of_them: bool = False) -> None:
        """Lets those go on whose time is over."""
        with self._lock:
            now = time.monotonic()
            for pid in [pid for pid, until in self._frozen.items() if all_of_them or until <= now]:
                _signal(pid, signal.SIGCONT)
                del self._frozen[pid]


class Injector:
    """Chooses a fault by weight and does it; only processes below this one are touched."""

    def __init__(self, plant: Plant, *, rng: random.Random, open_jobs: Callable[[], Sequence[str]]) -> None:
        self._plant, self._rng, self._open_jobs = plant, rng, open_jobs
        self.freezer = Freezer()
        self.ended_jobs: list[str] = []
        self._kinds: Mapping[str, tuple[int, Callable[[str], Fault | None]]] = {
            "step killed": (9, lambda kind: self._kill(kind, self._census().steps())),
            "rank killed": (5, lambda kind: self._kill(kind, self._census().ranks())),
            "pipeline killed": (8, lambda kind: self._kill(kind, self._census().pipelines())),
            "pool process killed": (8, self._kill_pool),
            "worker killed": (5, self._kill_worker),
            "host killed": (3, self._kill_host),
            "server killed": (5, lambda kind: self._kill_part(kind, self._plant.servers)),
            "Valkey killed": (5, lambda kind: self._kill_part(kind, [self._plant.valkey])),
            "Valkey emptied": (4, self._flush),
            "step frozen": (4, lambda kind: self._freeze(kind, self._census().steps())),
            "rank frozen": (3, lambda kind: self._freeze(kind, self._census().ranks())),
            "pipeline frozen": (4, lambda kind: self._freeze(kind, self._census().pipelines())),
            "pool process frozen": (6, lambda kind: self._freeze(kind, _prefer_busy(self._census()))),
            "worker frozen": (3, lambda kind: self._freeze_parts(kind, self._plant.workers)),
            "host frozen": (3, self._freeze_host),
            "server frozen": (3, lambda kind: self._freeze_parts(kind, self._plant.servers)),
            "Valkey frozen": (3, lambda kind: self._freeze_parts(kind, [self._plant.valkey])),
            "worker deployed": (3, lambda kind: self._terminate(kind, self._plant.workers)),
            "server deployed": (3, lambda kind: self._terminate(kind, self._plant.servers)),
            "cancelled": (4, lambda kind: self._ask(kind, "cancel", self._open_jobs())),
            "paused": (4, lambda kind: self._ask(kind, "pause", self._open_jobs())),
            "resumed": (5, lambda kind: self._ask(kind, "resume", self._open_jobs())),
            "retried": (4, lambda kind: self._ask(kind, "retry", self.ended_jobs)),
            **self._list_database_kinds(),
        }

    def inject(self) -> Fault | None:
        """One fault; None when there was nobody to do it to."""
        kinds = list(self._kinds)
        [kind] = self._rng.choices(kinds, weights=[self._kinds[kind][0] for kind in kinds])
        return self._kinds[kind][1](kind)

    def _list_database_kinds(self) -> dict[str, tuple[int, Callable[[str], Fault | None]]]:
        if self._plant.postgres is None:
            return {}
        return {"PostgreSQL killed": (3, self._kill_postgres), "PostgreSQL frozen": (3, self._freeze_postgres)}

    def _census(self) -> Census:
        return take_census(self._plant)

    def _choose(self, candidates: Sequence[Process]) -> Process | None:
        return self._rng.choice(candidates) if candidates else None

    def _kill(self, kind: str, candidates: Sequence[Process]) -> Fault | None:
        victim = self._choose(candidates)
        if victim is None or not _signal(victim.pid, signal.SIGKILL):
            return None
        return Fault(kind, time.time(), victim.job_id or str(victim.pid))

    def _kill_pool(self, kind: str) -> Fault | None:
        census = take_census(self._plant)
        victim = self._choose(_prefer_busy(census))
        if victim is None:
            return None
        jobs = _find_jobs(census.below(victim.pid))
        return Fault(kind, time.time(), str(victim.pid), jobs) if _signal(victim.pid, signal.SIGKILL) else None

    def _kill_worker(self, kind: str) -> Fault | None:
        return self._kill_host(kind, is_whole=False)

    def _kill_host(self, kind: str, *, is_whole: bool = True) -> Fault | None:
        """The worker's main process alone, or everything on its host at once."""
        worker = self._choose_part(self._plant.workers)
        if worker is None:
            return None
        below = take_census(self._plant).below(worker.pid)
        kill_all(below if is_whole else below[:1])
        return Fault(kind, time.time(), worker.name, _find_jobs(below))

    def _choose_part(self, parts: Sequence[Part]) -> Part | None:
        running = [part for part in parts if part.is_running]
        return self._rng.choice(running) if running else None

    def _kill_part(self, kind: str, parts: Sequence[Part]) -> Fault | None:
        part = self._choose_part(parts)
        if part is None:
            return None
        part.send(signal.SIGKILL)
        return Fault(kind, time.time(), part.name)

    def _terminate(self, kind: str, parts: Sequence[Part]) -> Fault | None:
        part = self._choose_part(parts)
        if part is None:
            return None
        part.send(signal.SIGTERM)
        return Fault(kind, time.time(), part.name)

    def _flush(self, kind: str) -> Fault | None:
        return Fault(kind, time.time(), "valkey") if self._plant.flush_valkey() else None

    def _draw_seconds(self) -> float:
        """Mostly a moment; one in four outlasts a lease, so that the job is another's when the frozen one goes on."""
        lease = self._plant.options.lease_seconds
        return self._rng.uniform(1.2, 2.0) * lease if self._rng.random() < 0.25 else self._rng.uniform(0.1, 0.8) * lease

    def _freeze(self, kind: str, candidates: Sequence[Process]) -> Fault | None:
        victim = self._choose(candidates)
        return None if victim is None else self._freeze_pids(kind, [victim.pid], victim.job_id or str(victim.pid))

    def _freeze_pids(self, kind: str, pids: Sequence[int], target: str) -> Fault:
        seconds = self._draw_seconds()
        self.freezer.freeze(pids, seconds)
        return Fault(kind, time.time(), target, seconds=round(seconds, 2))

    def _freeze_parts(self, kind: str, parts: Sequence[Part]) -> Fault | None:
        part = self._choose_part(parts)
        return None if part is None else self._freeze_pids(kind, [part.pid], part.name)

    def _freeze_host(self, kind: str) -> Fault | None:
        worker = self._choose_part(self._plant.workers)
        if worker is None:
            return None
        pids = [process.pid for process in take_census(self._plant).below(worker.pid)]
        return self._freeze_pids(kind, pids, worker.name)

    def _kill_postgres(self, kind: str) -> Fault | None:
        assert self._plant.postgres is not None
        if not self._plant.postgres.is_running:
            return None
        _signal(self._plant.postgres.pid, signal.SIGKILL)
        return Fault(kind, time.time(), "postgres")

    def _freeze_postgres(self, kind: str) -> Fault | None:
        assert self._plant.postgres is not None
        if not self._plant.postgres.is_running:
            return None
        pids = [process.pid for process in take_census(self._plant).below(self._plant.postgres.pid)]
        return self._freeze_pids(kind, pids, "postgres")

    def _ask(self, kind: str, action: str, candidates: Sequence[str]) -> Fault | None:
        """An owner's wish; counts only when the service took it."""
        if not candidates:
            return None
        job_id = self._rng.choice(candidates)
        with suppress(Unanswered):
            if self._plant.client.call("POST", f"/v1/jobs/{job_id}/{action}", timeout_seconds=5.0).status < 300:
                return Fault(kind, time.time(), job_id)
        return None


def _prefer_busy(census: Census) -> Sequence[Process]:
    """Pool processes that supervise a job, where there are any."""
    pools = census.pools()
    return [pool for pool in pools if _find_jobs(census.below(pool.pid))] or pools


def _find_jobs(processes: Sequence[Process]) -> tuple[str, ...]:
    return tuple(sorted({process.job_id for process in processes if process.job_id is not None}))


def _signal(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
