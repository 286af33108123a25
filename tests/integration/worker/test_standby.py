"""Stand-bys with a real worker: what they serve, what they know, and that nothing is left of them."""

import os
import signal
import time
from pathlib import Path

import pytest

from app.states import JobStatus
from tests.integration.worker.conftest import OWNER, REPOSITORY, TOKEN, Installation, Worker
from tests.integration.worker.test_trainer_user import SITE, USER, can_run
from tests.support.standbys import Waiting, find_standby_pids, find_waiting, read_argv

pytestmark = pytest.mark.timeout(120)
PROGRAM = str(Path(__file__).with_name("stub_standby_worker.py"))


@pytest.fixture
def start(installation, until):
    """Starts a worker; returns it with its stand-by, once that is ready."""

    def start(**variables: str) -> tuple[Worker, Waiting]:
        worker = start_worker(installation, **variables)
        return worker, until(lambda: find_waiting(worker.process.pid))

    return start


def start_worker(installation: Installation, **variables: str) -> Worker:
    return installation.start_worker(program=PROGRAM, variables={"FINESMITH_STANDBY": "on", **variables})


def was_warm(installation: Installation, job_id: str) -> dict[str, bool]:
    return {event.step: event.data["warm"] for event in installation.events(job_id, "step.started")}


def list_homes(installation: Installation) -> list[Path]:
    return list((installation.settings.data_dir / "owners").glob(".standby-*"))


def read_log(worker: Worker) -> str:
    return worker.log_path.read_text()


def test_a_stand_by_serves_one_job_and_the_next_job_has_another(installation, start, until, alive):
    worker, first = start()
    job_id = installation.submit({"train": {"metrics": 1, "variable": "HOME", "sleep": 0.5}})
    pid = installation.wait_asleep(job_id)

    assert pid == first.train
    workspace = str(installation.workspace(job_id))
    for each in (first.pipeline, first.train):
        argv = read_argv(each)
        assert argv[argv.index("--workspace") + 1] == workspace, "strays are found by their command line"
        assert argv[argv.index("--attempt") + 1] == "1"
    assert Path(f"/proc/{pid}/cwd").resolve() == Path(workspace)
    assert installation.wait(job_id).status is JobStatus.SUCCEEDED, read_log(worker)
    assert was_warm(installation, job_id) == {"prepare": True, "train": True}
    home = str(installation.settings.data_dir / "owners" / OWNER / "home")
    log = installation.log(job_id)
    assert {f"HOME {home}", f"kept {home}/kept"} <= set(log), log
    assert not [line for line in log if "noise" in line]
    second = until(lambda: find_waiting(worker.process.pid))
    assert not second.pids & first.pids
    until(lambda: not any(alive(each) for each in first.pids))

    other_id = installation.submit({}, steps=["prepare", "train"])
    assert installation.wait(other_id).status is JobStatus.SUCCEEDED
    assert was_warm(installation, other_id) == {"prepare": True, "train": True}
    until(lambda: len(list_homes(installation)) == 1)


def test_a_stand_by_has_no_secret_no_owner_and_no_gpu_before_it_has_a_job(installation, start):
    _, waiting = start(CUDA_VISIBLE_DEVICES="0", AWS_SECRET_ACCESS_KEY=TOKEN)

    for pid in waiting.pids:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode()
        env = dict(entry.split("=", 1) for entry in text.rstrip("\0").split("\0"))
        assert TOKEN not in text
        assert not [name for name in env if name.startswith("FINESMITH_")]
        assert env["CUDA_VISIBLE_DEVICES"] == ""
        assert Path(env["HOME"]).parent in list_homes(installation)
        # Of what lies in the data folder it holds nothing open.
        opened = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
        assert not [path for path in opened if str(installation.settings.data_dir) in path]
    home = list_homes(installation)[0]
    assert [path.name for path in home.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    "end",
    [
        "kill the worker",
        pytest.param("kill the pool process", marks=pytest.mark.slow),
        pytest.param("close its pipe", marks=pytest.mark.slow),
        pytest.param("SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_no_stand_by_outlives_its_worker(installation, start, until, alive, end):
    worker, waiting = start()
    pool_pid = int(Path(f"/proc/{waiting.pipeline}/stat").read_text().rpartition(")")[2].split()[1])

    if end == "kill the worker":
        worker.kill()
    elif end == "kill the pool process":
        os.kill(pool_pid, signal.SIGKILL)
    elif end == "close its pipe":
        worker.process.stdin.close()
    else:
        assert worker.terminate() == 0

    until(lambda: not any(alive(pid) for pid in waiting.pids), seconds=5.0)
    if end == "SIGTERM":
        assert list_homes(installation) == []
    elif end == "close its pipe":
        # What lies there of a worker that was killed goes when the next one starts.
        start_worker(installation)
        until(lambda: f".standby-{pool_pid}-1" not in {path.name for path in list_homes(installation)})


@pytest.mark.slow
def test_nothing_is_left_of_a_stand_by_that_was_not_ready(installation, until, alive):
    worker = start_worker(installation, HF_STUB_REHEARSAL="hang")
    pids = until(lambda: find_standby_pids(worker.process.pid))

    worker.kill()

    until(lambda: not any(alive(pid) for pid in pids), seconds=5.0)


@pytest.mark.slow
def test_a_job_waits_for_no_stand_by(installation, until):
    worker = start_worker(installation, HF_STUB_REHEARSAL="hang")
    pids = until(lambda: find_standby_pids(worker.process.pid))

    job_id = installation.submit({})

    assert installation.wait(job_id).status is JobStatus.SUCCEEDED
    assert was_warm(installation, job_id) == {"prepare": False, "train": False}
    assert pids <= find_standby_pids(worker.process.pid), "it goes on getting ready for the next job"


@pytest.mark.slow
def test_a_stand_by_that_cannot_get_ready_is_told_and_not_missed(installation, until):
    worker = start_worker(installation, HF_STUB_REHEARSAL="fail")
    until(lambda: find_standby_pids(worker.process.pid) == set())

    job_id = installation.submit({})

    assert installation.wait(job_id).status is JobStatus.SUCCEEDED
    assert was_warm(installation, job_id) == {"prepare": False, "train": False}
    assert "no module named torch" in read_log(worker)


@pytest.mark.parametrize(
    ("victim", "number"),
    [
        ("pipeline", signal.SIGKILL),
        pytest.param("train", signal.SIGKILL, marks=pytest.mark.slow),
        # It does not answer: the worker waits 2 s, then starts another.
        pytest.param("pipeline", signal.SIGSTOP, marks=pytest.mark.slow),
    ],
)
def test_a_job_whose_stand_by_is_lost_is_started_without(installation, start, alive, until, victim, number):
    worker, waiting = start()
    os.kill(getattr(waiting, victim), number)
    if number == signal.SIGKILL:
        until(lambda: not alive(waiting.pipeline))

    job_id = installation.submit({})
    job = installation.wait(job_id)

    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1), read_log(worker)
    assert was_warm(installation, job_id) == {"prepare": False, "train": False}
    assert "a stand-by is not used" in read_log(worker)
    until(lambda: not any(alive(pid) for pid in waiting.pids))


@pytest.mark.slow
def test_a_step_that_dies_while_it_waits_for_the_one_before_it_is_started_anew(installation, start):
    _, waiting = start()
    job_id = installation.submit({"prepare": {"sleep": 1}})
    installation.wait_asleep(job_id)
    os.kill(waiting.train, signal.SIGKILL)

    job = installation.wait(job_id)

    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 1)
    assert was_warm(installation, job_id) == {"prepare": True, "train": False}


def test_a_warm_job_is_cancelled_and_the_next_stand_by_lives_on(installation, start, until, alive):
    worker, waiting = start()
    job_id = installation.submit({"train": {"metrics": 1, "sleep": 600}})
    installation.wait_asleep(job_id)
    following = until(lambda: find_waiting(worker.process.pid))
    asked_at = time.monotonic()

    installation.jobs.cancel(OWNER, job_id)

    assert installation.wait(job_id).status is JobStatus.CANCELLED
    assert time.monotonic() - asked_at < 3.0
    assert [event.data["global_step"] for event in installation.events(job_id, "checkpoint.saved")] == [7]
    until(lambda: not any(alive(pid) for pid in waiting.pids))
    assert find_waiting(worker.process.pid) == following
    next_id = installation.submit({"train": {"sleep": 1}})
    assert installation.wait_asleep(next_id) == following.train


@pytest.mark.slow
def test_beside_a_job_that_runs_its_models_code_no_stand_by_waits(build_installation, until):
    commit = "c" * 40
    installation = build_installation("trusting", trusted_model_code=(f"owner/model@{commit}",))
    worker = start_worker(installation)
    until(lambda: find_waiting(worker.process.pid))
    config = {"model_name_or_path": "owner/model", "model_revision": commit, "trust_remote_code": True}
    job_id = installation.submit({"train": {"metrics": 1, "sleep": 2}}, config=config)
    installation.wait_asleep(job_id)

    until(lambda: installation.events(job_id, "metrics"))
    time.sleep(0.5)
    assert find_standby_pids(worker.process.pid) == set()

    assert installation.wait(job_id).status is JobStatus.SUCCEEDED
    until(lambda: find_standby_pids(worker.process.pid))


@pytest.mark.slow
def test_a_worker_with_plugins_keeps_none(installation, until):
    worker = start_worker(installation, FINESMITH_PLUGINS="tests.integration.plugin.nowhere:register")

    job_id = installation.submit({})

    installation.wait(job_id)
    assert find_standby_pids(worker.process.pid) == set()
    assert was_warm(installation, job_id) == {"prepare": False, "train": False}


@pytest.mark.slow
def test_a_warm_job_ends_with_its_worker(installation, start, until, alive):
    worker, waiting = start()
    pid_file = installation.settings.data_dir / "pids"
    job_id = installation.submit({"train": {"grandchild": str(pid_file), "ignore_signals": 600}})
    installation.wait_asleep(job_id)
    pids = [int(word) for word in pid_file.read_text().split()]

    worker.kill()

    until(lambda: not any(alive(pid) for pid in [*pids, *waiting.pids]), seconds=5.0)


@pytest.mark.slow
@pytest.mark.skipif(not can_run(), reason="needs root, and an interpreter that every user may run")
def test_a_stand_by_waits_as_the_user_of_jobs_and_in_their_cage(installation, until, alive):
    installation.settings.data_dir.parent.chmod(0o711)
    worker = installation.start_worker(
        program=f"{PROGRAM} --as-user",
        variables={
            "FINESMITH_STANDBY": "on",
            "FINESMITH_TRAINER_USER": str(USER),
            "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{SITE}",
        },
    )
    waiting = until(lambda: find_waiting(worker.process.pid))
    for pid in waiting.pids:
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        assert status["Uid"].split() == [str(USER)] * 4
        assert int(status["CapEff"], 16) == 0
        assert status["NoNewPrivs"].strip() == "1"
    networks = [Path(f"/proc/{pid}/ns/net").readlink() for pid in (waiting.prepare, waiting.train)]
    assert networks[0] == Path("/proc/self/ns/net").readlink()
    assert networks[0] != networks[1]

    job_id = installation.submit({"train": {"sleep": 0.5}})

    assert installation.wait_asleep(job_id) == waiting.train
    assert installation.wait(job_id).status is JobStatus.SUCCEEDED, read_log(worker)
    assert was_warm(installation, job_id) == {"prepare": True, "train": True}
