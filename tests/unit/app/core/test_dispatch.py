"""The plan of who goes where, without a database."""

import pytest

from app.jobs.dispatch import choose_gpus, plan
from app.jobs.rooms import Host, Occupant, RunningLimits, Waiting, default_num_gpus


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


def running(
    job_id: str, worker_id: str = "w", num_gpus: int = 1, priority: int = 0, is_leaving: bool = False
) -> Occupant:
    return Occupant(worker_id, num_gpus, job_id=job_id, priority=priority, is_running=True, is_leaving=is_leaving)


@pytest.mark.parametrize(
    ("waiting", "hosts", "occupants", "victims"),
    [
        pytest.param([("new", 1, 5)], [host("w", 2)], [running("a")], {}, id="there is room"),
        pytest.param([("new", 1, 5)], [host("w", 1)], [running("a")], {"a": "new"}, id="the only one leaves"),
        pytest.param([("new", 1, 5)], [host("w", 1)], [running("a", priority=5)], {}, id="an equal stays"),
        pytest.param(
            [("new", 1, 5)],
            [host("w", 2)],
            [running("a", priority=1), running("b", priority=2)],
            {"a": "new"},
            id="the lowest leaves",
        ),
        pytest.param(
            [("new", 1, 5)], [host("w", 2)], [running("a"), running("b")], {"b": "new"}, id="the newest leaves"
        ),
        pytest.param([("new", 1, 5)], [host("w", 1)], [running("a", is_leaving=True)], {}, id="one leaves already"),
        pytest.param(
            [("new", 1, 5), ("next", 1, 4)],
            [host("w", 2)],
            [running("a", is_leaving=True), running("b")],
            {"b": "next"},
            id="who leaves already makes room for one only",
        ),
        pytest.param(
            [("big", 4, 5)],
            [host("w", 4)],
            [running("a"), running("b", num_gpus=2, priority=1)],
            {"a": "big", "b": "big"},
            id="as many as it takes",
        ),
        pytest.param(
            [("big", 4, 5)],
            [host("w", 4)],
            [running("a"), running("b", priority=9)],
            {},
            id="nobody leaves in vain",
        ),
        pytest.param(
            [("big", 2, 5)],
            [host("v", 2), host("w", 2)],
            [running("a", "v"), running("b", "v"), running("c", "w", num_gpus=2)],
            {"c": "big"},
            id="the host where the fewest leave",
        ),
        pytest.param(
            [("cpu", 0, 5)],
            [host("w", 2, slots=2)],
            [running("a"), running("b", num_gpus=0)],
            {"b": "cpu"},
            id="a job without a GPU wants a slot",
        ),
        pytest.param(
            [("new", 1, 5)],
            [host("w", 1)],
            [Occupant("w", 1, job_id="sent", priority=0)],
            {},
            id="what was only sent is not stopped",
        ),
        pytest.param([("new", 8, 5)], [host("w", 4)], [running("a")], {}, id="what fits nowhere stops nobody"),
    ],
)
def test_who_makes_room(
    waiting: list[tuple[str, int, int]], hosts: list[Host], occupants: list[Occupant], victims: dict[str, str]
):
    jobs = [Waiting(job_id, num_gpus, priority=priority) for job_id, num_gpus, priority in waiting]
    assert plan(jobs, hosts, occupants, preempts=True).victims == victims
    assert plan(jobs, hosts, occupants).victims == {}


def test_a_small_job_does_not_take_what_others_leave_for_a_big_one():
    occupants = [running("a", num_gpus=1), running("b", num_gpus=3, is_leaving=True)]
    waiting = [Waiting("big", 4, priority=5), Waiting("small", 1, priority=4)]
    planned = plan(waiting, [host("w", 5)], occupants, preempts=True)
    assert planned.assignments == []


def test_an_owner_at_its_limit_holds_no_other_up():
    waiting = [Waiting("a1", 0, owner="ann", priority=9), Waiting("a2", 0, owner="ann"), Waiting("b", 0, owner="bob")]
    planned = plan(waiting, [host("w", slots=3)], [], limits=RunningLimits({"ann": 1}))
    assert [assignment.job_id for assignment in planned.assignments] == ["a1", "b"]
    assert RunningLimits({"ann": 1}, default=2).list_full({"ann": 1, "bob": 1, "cid": 2}) == ["ann", "cid"]


def test_ranks_are_kept_strictly_on_one_kind_of_host():
    waiting = [Waiting(f"job{number}", 1, priority=-number) for number in range(6)]
    planned = plan(waiting, [host("v", 2), host("w", 1)], [])
    assert [assignment.job_id for assignment in planned.assignments] == ["job0", "job1", "job2"]
