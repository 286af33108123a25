"""Which waiting job goes to which worker: by rank, into the tightest room, with nothing starved; no database."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.jobs.preemption import Preemptor
from app.jobs.rooms import Host, Occupant, Room, RunningLimits, Waiting, default_num_gpus, measure_rooms

NO_LIMITS = RunningLimits()


@dataclass(frozen=True, slots=True)
class Assignment:
    job_id: str
    worker_id: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Who goes where, and which running jobs are to make room for which waiting one (victim to its reason)."""

    assignments: list[Assignment] = field(default_factory=list)
    victims: dict[str, str] = field(default_factory=dict)


def plan(
    waiting: Sequence[Waiting],
    hosts: Sequence[Host],
    occupants: Sequence[Occupant],
    *,
    limits: RunningLimits = NO_LIMITS,
    preempts: bool = False,
) -> Plan:
    """Assigns jobs, given highest rank first, to hosts with room.

    A job of several GPUs that finds no room reserves the host where it will fit soonest: jobs of a lower rank stay
    away from it, so that it is not starved by small ones. Small jobs prefer the fullest host that still has room.
    With `preempts`, running jobs of a lower priority make room for one that finds none.
    """
    default = default_num_gpus(hosts)
    rooms = measure_rooms(hosts, occupants)
    preemptor = Preemptor(occupants) if preempts else None
    num_running = Counter(occupant.owner for occupant in occupants)
    planned = Plan()
    for job in waiting:
        if preemptor is None and not any(room.free_slots > 0 for room in rooms):
            break
        limit = limits.find_limit(job.owner)
        if limit is not None and num_running[job.owner] >= limit:
            continue
        num_gpus = default if job.num_gpus is None else job.num_gpus
        able = [room for room in rooms if room.host.announces(job.required_keys) and len(room.host.gpus) >= num_gpus]
        room = min((room for room in able if room.holds(num_gpus)), key=_rank_by_free, default=None)
        if room is not None:
            room.take(num_gpus)
            num_running[job.owner] += 1
            planned.assignments.append(Assignment(job.job_id, room.host.worker_id))
            continue
        preempted = None if preemptor is None else preemptor.choose(job, num_gpus, able)
        if preempted is not None:
            planned.victims.update(dict.fromkeys(preempted[1], job.job_id))
        if able and num_gpus > 1:
            rooms.remove(max(able, key=_rank_by_free) if preempted is None else preempted[0])
    return planned


def _rank_by_free(room: Room) -> tuple[int, int, str]:
    return room.free_gpus, room.free_slots, room.host.worker_id


def choose_gpus(host: Host, occupants: Sequence[Occupant], num_gpus: int) -> tuple[int, ...] | None:
    """The lowest free GPUs of the host for one more job; None when it has no room for it.

    Jobs that were sent to the host and have not started hold room too, but no GPU in particular.
    """
    [room] = measure_rooms([host], occupants)
    if not room.holds(num_gpus):
        return None
    taken = {gpu for occupant in occupants for gpu in occupant.gpus}
    free = [gpu for gpu in sorted(host.gpus) if gpu not in taken]
    return tuple(free[:num_gpus])
