"""Links that fail: Redis and the database slow, deaf, reset or away, while jobs run and are submitted."""

import signal
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.chaos.oracle import judge_job, read_job
from tests.chaos.plant import Plant, PlantOptions, wait_until
from tests.chaos.work import build_body, read_acts, submit, wait_ended, wait_training
from tests.support.fault_proxy import WORKING, FaultProxy, Link

pytestmark = pytest.mark.timeout(240)
SUBMIT_SECONDS = 1.0
NUM_SUBMISSIONS = 5

REDIS_FAULTS = [
    # (link, seconds until what waits is dispatched again)
    pytest.param(Link(is_deaf=True), 35.0, id="half-open"),
    pytest.param(Link(is_down=True), 10.0, id="down", marks=pytest.mark.slow),
    pytest.param(Link(is_resetting=True), 10.0, id="reset", marks=pytest.mark.slow),
    pytest.param(Link(delay_seconds=2.0), 10.0, id="2 s late", marks=pytest.mark.slow),
    pytest.param(Link(bytes_per_second=1000.0), 10.0, id="1 KB/s", marks=pytest.mark.slow),
]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def build_proxy(stack: ExitStack) -> FaultProxy:
    proxy = FaultProxy()
    stack.callback(proxy.close)
    return proxy


@pytest.fixture(scope="module")
def behind_redis_proxy() -> Iterator[tuple[Plant, FaultProxy]]:
    with ExitStack() as stack:
        proxy = build_proxy(stack)
        options = PlantOptions(redis_port=proxy.port)
        plant = Plant(options)
        stack.callback(plant.close)
        proxy.upstream = plant.valkey_socket
        plant.start()
        yield plant, proxy


@pytest.mark.parametrize(("link", "dispatch_seconds"), REDIS_FAULTS)
def test_jobs_are_taken_and_run_on_while_redis_fails(
    behind_redis_proxy: tuple[Plant, FaultProxy], link: Link, dispatch_seconds: float
) -> None:
    plant, proxy = behind_redis_proxy
    # Both GPUs are taken, so that what is submitted now has to be dispatched later.
    running = [submit(plant, num_steps=20, step_seconds=0.1) for _ in range(2)]
    for job_id in running:
        wait_training(plant, job_id)
    proxy.set(link, cut=False)
    try:
        answers = [plant.client.call("POST", "/v1/jobs", body=build_body(plant)) for _ in range(NUM_SUBMISSIONS)]
        ended = [wait_ended(plant, job_id) for job_id in running]
    finally:
        proxy.set(WORKING)

    assert [answer.status for answer in answers] == [201] * NUM_SUBMISSIONS
    assert statistics.median(answer.seconds for answer in answers) <= SUBMIT_SECONDS
    assert [(job["status"], job["attempt"]) for job in ended] == [("succeeded", 1)] * 2
    waiting = [answer.body["id"] for answer in answers]
    wait_until(lambda: any(read_acts(plant, job_id) for job_id in waiting), seconds=dispatch_seconds)
    for job_id in [*running, *waiting]:
        wait_ended(plant, job_id)
        assert judge_job(plant, job_id) == []


@pytest.fixture
def build_postgres_plant(stack: ExitStack) -> Callable[..., tuple[Plant, FaultProxy, FaultProxy]]:
    """An installation on PostgreSQL whose server and worker each have a link of their own to it."""

    def build() -> tuple[Plant, FaultProxy, FaultProxy]:
        server_link, worker_link = build_proxy(stack), build_proxy(stack)
        options = PlantOptions(
            database="postgres", database_port=server_link.port, worker_database_port=worker_link.port
        )
        plant = Plant(options)
        stack.callback(plant.close)
        assert plant.postgres is not None
        server_link.upstream = worker_link.upstream = plant.postgres.socket_path
        plant.start()
        return plant, server_link, worker_link

    return build


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize("is_killed", [False, True], ids=["link down", "server killed"])
def test_a_database_that_was_away_longer_than_a_lease_costs_no_job(build_postgres_plant, is_killed: bool) -> None:
    plant, server_link, worker_link = build_postgres_plant()
    job_id = submit(plant, num_steps=120, step_seconds=0.1)
    wait_training(plant, job_id)
    if is_killed:
        plant.postgres.kill()
    else:
        server_link.set(Link(is_down=True))
        worker_link.set(Link(is_down=True))

    answer = plant.client.call("GET", f"/v1/jobs/{job_id}", timeout_seconds=30)
    refused = plant.client.call("POST", "/v1/jobs", body=build_body(plant), timeout_seconds=30)
    alive = plant.client.call("GET", "/livez")
    # Longer than the lease of 3 s: the training itself tells the time.
    done = max(entry.number for entry in read_acts(plant, job_id))
    wait_training(plant, job_id, number=done + 50)
    if is_killed:
        plant.postgres.start()
    server_link.set(WORKING)
    worker_link.set(WORKING)
    job = wait_ended(plant, job_id)

    for each in (answer, refused):
        assert (each.status, each.body["error"]["code"]) == (503, "database_unavailable")
        assert int(each.headers["retry-after"]) > 0
    assert alive.status == 200
    assert (job["status"], job["attempt"], job["failures"]) == ("succeeded", 1, 0)
    assert judge_job(plant, job_id) == []


@pytest.mark.slow
@pytest.mark.postgres
def test_a_reconciler_that_starts_after_an_outage_gives_workers_a_lease_to_renew(build_postgres_plant) -> None:
    plant, server_link, worker_link = build_postgres_plant()
    [server] = plant.servers
    job_id = submit(plant, num_steps=150, step_seconds=0.1)
    wait_training(plant, job_id)
    server.send(signal.SIGKILL)
    for link in (server_link, worker_link):
        link.set(Link(is_down=True))
    done = max(entry.number for entry in read_acts(plant, job_id))
    wait_training(plant, job_id, number=done + 45)

    # The new server has the database back a while before the worker has.
    server.process.wait()
    server.start()
    server_link.set(WORKING)
    plant.client.insist("GET", "/readyz")
    wait_training(plant, job_id, number=done + 75)
    worker_link.set(WORKING)
    job = wait_ended(plant, job_id)

    assert (job["status"], job["attempt"], job["failures"]) == ("succeeded", 1, 0)


@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.parametrize(
    "link",
    [Link(delay_seconds=2.0), Link(bytes_per_second=2000.0), Link(is_resetting=True)],
    ids=["2 s late", "2 KB/s", "reset"],
)
def test_a_job_outlives_a_bad_link_to_the_database(build_postgres_plant, link: Link) -> None:
    plant, _, worker_link = build_postgres_plant()
    job_id = submit(plant, num_steps=80, step_seconds=0.1)
    wait_training(plant, job_id)

    worker_link.set(link, cut=False)
    done = max(entry.number for entry in read_acts(plant, job_id))
    wait_training(plant, job_id, number=done + 20)
    worker_link.set(WORKING)
    job = wait_ended(plant, job_id)

    assert job["status"] == "succeeded"
    assert judge_job(plant, job_id) == []
    record = read_job(plant, job_id)
    assert record is not None
    assert {attempt.outcome for attempt in record.attempts} <= {"succeeded", "lost"}
