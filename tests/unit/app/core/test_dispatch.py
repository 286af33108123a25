"""The plan of who goes where, without a database."""

import pytest

from app.jobs.dispatch import choose_gpus, plan
from app.jobs.rooms import Host, Occupant, Waiting, default_num_gpus


def host(worker_id: str, num_gpus: int = 0, slots: int | None = None) -> Host:
    return Host(worker_id, tuple(range(num_gpus)), slots or max(1, num_gpus), keys={"datasets": frozenset({"chat"})})


def place(waiting: list[Waiting], hosts: list[Host], occupants: list[Occupant] | None = None) -> dict[str, str]:
    return {assignment.job_id: assignment.worker_id for assignment in plan(waiting, hosts, occupants or []).assignments}


@pytest.mark.parametrize(
    ("waiting", "hosts", "occupants", "expected"),
    [
        pytest.param([Waiting("a", 0)], [], [], {}, id="no host"),
        pytest.param([Waiting("a", 0), Waiting("b", 0)], [host("w")], [], {"a": "w"}, id="one slot takes the first"),
        pytest.param([Waiting("a", 1)], [host("w")], [], {}, id="no GPU on a CPU host"),
        pytest.param([Waiting("a", None)], [host("c"), host("g", 1)], [], {"a": "g"}, id="unsaid takes a GPU"),
        pytest.param([Waiting("a", None)], [host("c")], [], {"a": "c"}, id="unsaid runs on the CPU"),
        pytest.param([Waiting("a", 0)], [host("c"), host("g", 2)], [], {"a": "c"}, id="no GPU spares GPU hosts"),
        pytest.param(
            [Waiting("a", 1)],
            [host("w1", 4), host("w2", 4)],
            [Occupant("w2", 3)],
            {"a": "w2"},
            id="small fills the fuller host",
        ),
        pytest.param(
            [Waiting("big", 4), Waiting("small", 1)],
            [host("w1", 4)],
            [Occupant("w1", 1)],
            {},
            id="a big job reserves its host",
        ),
        pytest.param(
            [Waiting("big", 4), Waiting("small", 1)],
            [host("w1", 4), host("w2", 1)],
            [Occupant("w1", 1)],
            {"small": "w2"},
            id="others go elsewhere",
        ),
        pytest.param(
            [Waiting("huge", 8), Waiting("small", 1)],
            [host("w1", 4)],
            [],
            {"small": "w1"},
            id="what fits nowhere reserves nothing",
        ),
        pytest.param(
            [Waiting("big", 4), Waiting("small", 1)],
            [host("w1", 4), host("w2", 4)],
            [Occupant("w1", 3), Occupant("w2", 1)],
            {"small": "w1"},
            id="the reserved host is the one with the most free",
        ),
        pytest.param([Waiting("a", 0, {"datasets": "mine"})], [host("w")], [], {}, id="a key nobody has"),
        pytest.param([Waiting("a", 0, {"datasets": "chat"})], [host("w")], [], {"a": "w"}, id="a key it has"),
        pytest.param([Waiting("a", 0)], [host("w")], [Occupant("gone", 0)], {"a": "w"}, id="occupant of no live host"),
    ],
)
def test_plan(waiting: list[Waiting], hosts: list[Host], occupants: list[Occupant], expected: dict[str, str]) -> None:
    assert place(waiting, hosts, occupants) == expected


def test_chosen_gpus_are_the_lowest_that_are_free() -> None:
    occupants = [Occupant("w", 2, (0, 2))]
    assert choose_gpus(host("w", 4), occupants, 1) == (1,)
    assert choose_gpus(host("w", 4), occupants, 2) == (1, 3)
    assert choose_gpus(host("w", 4), occupants, 3) is None


def test_jobs_on_their_way_hold_room() -> None:
    assert choose_gpus(host("w", 2), [Occupant("w", 1)], 2) is None
    assert choose_gpus(host("w", 2), [Occupant("w", 1)], 1) == (0,)


def test_default_is_one_gpu_where_there_is_any() -> None:
    assert default_num_gpus([host("a"), host("b", 2)]) == 1
    assert default_num_gpus([host("a")]) == 0
