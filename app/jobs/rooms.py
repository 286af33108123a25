"""Workers' room and who asks for it: what the plan of dispatching is made of; no database."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that waits; `num_gpus` None: one where the fleet has any GPU, else none."""

    job_id: str
    num_gpus: int | None
    required_keys: Mapping[str, str] = field(default_factory=dict)
    owner: str = ""
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Host:
    """A live worker: its GPUs, its slots, and the keys that it announces by registry."""

    worker_id: str
    gpus: tuple[int, ...]
    slots: int
    keys: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def announces(self, required: Mapping[str, str]) -> bool:
        return all(key in self.keys.get(registry, ()) for registry, key in required.items())


@dataclass(frozen=True, slots=True)
class Occupant:
    """A job that holds room on a worker: running with its GPUs, or sent there and about to take some."""

    worker_id: str
    num_gpus: int
    gpus: tuple[int, ...] = ()
    job_id: str = ""
    owner: str = ""
    priority: int = 0
    is_running: bool = False
    is_leaving: bool = False
    """Asked to stop: its room will be free soon."""


@dataclass(slots=True)
class Room:
    """What a host has left."""

    host: Host
    free_slots: int
    free_gpus: int

    def holds(self, num_gpus: int) -> bool:
        return self.free_slots > 0 and self.free_gpus >= num_gpus

    def take(self, num_gpus: int) -> None:
        """Gives a job its slot and its GPUs."""
        self.free_slots -= 1
        self.free_gpus -= num_gpus


def default_num_gpus(hosts: Iterable[Host]) -> int:
    """GPUs of a job that did not say: one where the fleet has any."""
    return 1 if any(host.gpus for host in hosts) else 0


def measure_rooms(hosts: Iterable[Host], occupants: Iterable[Occupant]) -> list[Room]:
    """What each host has left beside its occupants."""
    rooms = {host.worker_id: Room(host, free_slots=host.slots, free_gpus=len(host.gpus)) for host in hosts}
    for occupant in occupants:
        if room := rooms.get(occupant.worker_id):
            room.free_slots -= 1
            room.free_gpus -= occupant.num_gpus
    return list(rooms.values())


class RunningLimits:
    """How many jobs of each owner may run at a time."""

    def __init__(self, own: Mapping[str, int] | None = None, *, default: int | None = None) -> None:
        self._own = own or {}
        self._default = default

    def find_limit(self, owner: str) -> int | None:
        """The owner's limit; None: any number."""
        return self._own.get(owner, self._default)

    def list_full(self, num_running: Mapping[str, int]) -> list[str]:
        """Owners none of whose waiting jobs may start, by how many of each run."""
        full = [owner for owner, limit in self._own.items() if limit == 0 and owner not in num_running]
        for owner, number in num_running.items():
            limit = self.find_limit(owner)
            if limit is not None and number >= limit:
                full.append(owner)
        return sorted(full)
