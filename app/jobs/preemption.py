"""Which running jobs make room for a waiting one of a higher priority; no database."""

from collections.abc import Sequence
from operator import attrgetter

from app.jobs.rooms import Occupant, Room, Waiting


class Preemptor:
    """Finds running jobs of a lower priority whose room, with what is free, is enough for a waiting one."""

    def __init__(self, occupants: Sequence[Occupant]) -> None:
        self._running = [occupant for occupant in occupants if occupant.is_running]

    def choose(self, job: Waiting, num_gpus: int, able: Sequence[Room]) -> tuple[Room, list[str]] | None:
        """The host whose jobs make room, the fewest and of the lowest priority, and the jobs to ask; None: nowhere.

        Jobs that are leaving already count first, so that no more than needed are asked; none counts for two.
        """
        options = [(room, self._find_victims(job, num_gpus, room)) for room in able]
        found = [(room, victims) for room, victims in options if victims is not None]
        if not found:
            return None
        room, victims = min(found, key=_rank_harm)
        for victim in victims:
            self._running.remove(victim)
        return room, [victim.job_id for victim in victims if not victim.is_leaving]

    def _find_victims(self, job: Waiting, num_gpus: int, room: Room) -> list[Occupant] | None:
        here = [occupant for occupant in self._running if occupant.worker_id == room.host.worker_id]
        below = [occupant for occupant in here if occupant.is_leaving or occupant.priority < job.priority]
        # Who leaves anyway first, then the lowest priority; of equals the newest, which has done the least.
        below.sort(key=attrgetter("job_id"), reverse=True)
        below.sort(key=_rank_victim)
        free_gpus, free_slots = room.free_gpus, room.free_slots
        victims: list[Occupant] = []
        for occupant in below:
            if free_slots > 0 and free_gpus >= num_gpus:
                break
            if free_slots > 0 and not occupant.num_gpus:
                continue
            victims.append(occupant)
            free_gpus += occupant.num_gpus
            free_slots += 1
        return victims if free_slots > 0 and free_gpus >= num_gpus else None


def _rank_victim(occupant: Occupant) -> tuple[bool, int]:
    return not occupant.is_leaving, occupant.priority


def _rank_harm(option: tuple[Room, list[Occupant]]) -> tuple[int, int, str]:
    room, victims = option
    asked = [victim for victim in victims if not victim.is_leaving]
    return len(asked), max((victim.priority for victim in asked), default=0), room.host.worker_id
