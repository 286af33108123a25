"""Which waiting job goes to which worker: by rank, into the tightest room, with nothing starved; no database."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that waits; `num_gpus` None: one where the fleet has any GPU, else none."""

    job_id: str
    num_gpus: int | None
    required_keys: Mapping[str, str] = field(default_factory=dict)


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


@dataclass(frozen=True, slots=True)
class Assignment:
    job_id: str
    worker_id: str


@dataclass(slots=True)
class _Room:
    host: Host
    free_slots: int
    free_gpus: int

    def holds(self, num_gpus: int) -> bool:
        return self.free_slots > 0 and self.free_gpus >= num_gpus


def default_num_gpus(hosts: Iterable[Host]) -> int:
    """GPUs of a job that did not say: one where the fleet has any."""
    return 1 if any(host.gpus for host in hosts) else 0


def plan(waiting: Sequence[Waiting], hosts: Sequence[Host], occupants: Iterable[Occupant]) -> list[Assignment]:
    """Assigns jobs, given highest rank first, to hosts with room.

    A job of several GPUs that finds no room reserves the host where it will fit soonest: jobs of a lower rank stay
    away from it, so that it is not starved by small ones. Small jobs prefer the fullest host that still has room.
    """
    default = default_num_gpus(hosts)
    rooms = _measure_rooms(hosts, occupants)
    assignments = []
    for job in waiting:
        if not any(room.free_slots > 0 for room in rooms):
            break
        num_gpus = default if job.num_gpus is None else job.num_gpus
        able = [room for room in rooms if room.host.announces(job.required_keys) and len(room.host.gpus) >= num_gpus]
        fitting = [room for room in able if room.holds(num_gpus)]
        if fitting:
            room = min(fitting, key=lambda room: (room.free_gpus, room.free_slots, room.host.worker_id))
            room.free_slots -= 1
            room.free_gpus -= num_gpus
            assignments.append(Assignment(job.job_id, room.host.worker_id))
        elif able and num_gpus > 1:
            reserved = max(able, key=lambda room: (room.free_gpus, room.free_slots, room.host.worker_id))
            rooms.remove(reserved)
    return assignments


def choose_gpus(host: Host, occupants: Sequence[Occupant], num_gpus: int) -> tuple[int, ...] | None:
    """The lowest free GPUs of the host for one more job; None when it has no room for it.

    Jobs that were sent to the host and have not started hold room too, but no GPU in particular.
    """
    [room] = _measure_rooms([host], occupants)
    if not room.holds(num_gpus):
        return None
    taken = {gpu for occupant in occupants for gpu in occupant.gpus}
    free = [gpu for gpu in sorted(host.gpus) if gpu not in taken]
    return tuple(free[:num_gpus])


def _measure_rooms(hosts: Iterable[Host], occupants: Iterable[Occupant]) -> list[_Room]:
    rooms = {host.worker_id: _Room(host, free_slots=host.slots, free_gpus=len(host.gpus)) for host in hosts}
    for occupant in occupants:
        if room := rooms.get(occupant.worker_id):
            room.free_slots -= 1
            room.free_gpus -= occupant.num_gpus
    return list(rooms.values())
