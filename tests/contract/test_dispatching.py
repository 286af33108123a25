"""Which waiting job is sent where, in the database: rank, room, keys, repeated wake-ups."""

from app.jobs.catalogue import BUILT_IN_REGISTRIES, Catalogue, built_in_catalogue
from app.jobs.views import Resources
from tests.support.installation import OWNER, CoreInstallation


def take_worker_ids(core: CoreInstallation) -> dict[str, str]:
    return {assignment.job_id: assignment.worker_id for assignment in core.jobs.dispatch_ready()}


def test_priority_comes_first_then_age(core: CoreInstallation) -> None:
    old, urgent, young = core.submit(), core.submit(priority=5), core.submit()
    core.add_worker(slots=2)
    assert set(take_worker_ids(core)) == {urgent.id, old.id}
    core.add_worker("wrk-2")
    assert set(take_worker_ids(core)) == {young.id}


def test_new_job_is_sent_at_once_to_a_worker_with_room(core: CoreInstallation) -> None:
    core.add_worker()
    job = core.submit()
    assert core.jobs.dispatch_ready() == []
    assert core.jobs.claim(job.id, "wrk-1") is not None


def test_new_job_does_not_overtake_one_that_waits(core: CoreInstallation) -> None:
    first = core.submit()
    core.add_worker()
    second = core.submit()
    assert set(take_worker_ids(core)) == {first.id}
    assert core.jobs.claim(second.id, "wrk-1") is None


def test_silent_wake_up_is_sent_again_and_may_go_elsewhere(core: CoreInstallation) -> None:
    core.add_worker("wrk-1")
    job = core.submit()
    core.add_worker("wrk-2")
    core.silence_worker("wrk-1")
    assert core.jobs.dispatch_ready() == []
    core.age_dispatch(job.id)
    assert take_worker_ids(core) == {job.id: "wrk-2"}
    assert core.jobs.claim(job.id, "wrk-1") is None
    assert core.jobs.claim(job.id, "wrk-2") is not None


def test_jobs_get_different_gpus_and_no_more_than_there_are(core: CoreInstallation) -> None:
    core.add_worker(num_gpus=2)
    claims = [core.claim_new() for _ in range(2)]
    assert sorted(gpu for claim in claims for gpu in claim.gpus) == [0, 1]
    waiting = core.submit()
    assert core.jobs.dispatch_ready() == []
    assert core.jobs.claim(waiting.id, "wrk-1") is None


def test_job_of_several_gpus_is_not_starved_by_small_ones(core: CoreInstallation) -> None:
    core.add_worker(num_gpus=2)
    running = [core.claim_new() for _ in range(2)]
    big = core.submit(resources=Resources(gpus=2))
    small = [core.submit() for _ in range(3)]
    for claim in running:
        core.jobs.cancel(OWNER, claim.job_id)
        core.expire_lease(claim.job_id)
        core.jobs.reclaim_expired()
        sent = take_worker_ids(core)
        assert not set(sent) & {job.id for job in small}
    assert set(sent) == {big.id}
    claim = core.jobs.claim(big.id, "wrk-1")
    assert claim is not None
    assert claim.gpus == (0, 1)


def test_heap_of_jobs_that_fit_nowhere_hides_none_that_would(core: CoreInstallation) -> None:
    core.add_worker("wrk-big", num_gpus=2)
    core.claim_new(worker_id="wrk-big", resources=Resources(gpus=2))
    for _ in range(70):
        core.submit(resources=Resources(gpus=2), priority=1)
    fitting = core.submit(resources=Resources(gpus=0))
    core.add_worker("wrk-cpu")
    assert take_worker_ids(core) == {fitting.id: "wrk-cpu"}


def test_job_goes_only_to_workers_that_announce_its_keys(core: CoreInstallation) -> None:
    core.add_worker("wrk-plain", slots=3)
    registries = {**BUILT_IN_REGISTRIES, "datasets": (*BUILT_IN_REGISTRIES["datasets"], "mine")}
    catalogue = Catalogue(registries=registries, configs=built_in_catalogue().configs)
    core.add_worker("wrk-mine", catalogue=catalogue)
    job = core.submit(config={"dataset_key": "mine"})
    assert core.jobs.claim(job.id, "wrk-plain") is None
    assert core.jobs.claim(job.id, "wrk-mine") is not None


def test_job_from_before_the_first_worker_takes_a_gpu_where_there_is_one(core: CoreInstallation) -> None:
    job = core.submit()
    assert job.resources.gpus is None
    core.add_worker("wrk-cpu")
    core.add_worker("wrk-gpu", num_gpus=1)
    assert take_worker_ids(core) == {job.id: "wrk-gpu"}
    claim = core.jobs.claim(job.id, "wrk-gpu")
    assert claim is not None
    assert claim.gpus == (0,)


def test_offline_and_retired_workers_get_nothing(core: CoreInstallation) -> None:
    core.add_worker("wrk-1")
    core.add_worker("wrk-2")
    core.silence_worker("wrk-1")
    core.workers.retire("wrk-2")
    job = core.submit()
    assert core.jobs.dispatch_ready() == []
    assert {worker.id: worker.status for worker in core.workers.list()} == {
        "wrk-1": "offline",
        "wrk-2": "offline",
    }
    assert core.workers.heartbeat("wrk-2") is True
    assert core.workers.heartbeat("wrk-3") is False
    assert take_worker_ids(core) == {job.id: "wrk-2"}


def test_worker_that_registers_again_keeps_one_row(core: CoreInstallation) -> None:
    core.add_worker("wrk-1")
    core.add_worker("wrk-1", num_gpus=1)
    [worker] = core.workers.list()
    assert (len(worker.gpus), worker.status) == (1, "online")
    assert core.workers.current_catalogue().registries["trainers"] == ("default", "lm")
