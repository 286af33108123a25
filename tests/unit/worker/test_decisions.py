"""What the worker decides without a database: outcomes, environments, paths, when to stop."""

import signal
import threading
from pathlib import Path

import pytest

from app.jobs.commands import Outcome
from app.jobs.errors import LeaseLost
from app.jobs.views import Claim, ClaimInputs, JobError, LeaseView, StopRequest
from app.settings import Settings
from app.storage import Storage
from trainer_core.attempt.outcome import AttemptResult, Failure
from trainer_core.errors import StepInputError
from trainer_core.workspace import Workspace
from worker.drain import DrainFlag
from worker.environment import build_pipeline_environment
from worker.exit_status import StopReason, classify_exit, name_step
from worker.file_tail import FileTail
from worker.gpus import find_gpus
from worker.job_watch import JobWatch
from worker.lease_keeper import LeaseKeeper
from worker.owners import OwnerFolder
from worker.pump_thread import PumpThread
from worker.staging import InputStager, resolve_local_names

FAILED = AttemptResult("failed", Failure("invalid_data", "x", step="train"))
NETWORK = AttemptResult("failed", Failure("network", "x", step="prepare", retryable=True))
INTERRUPTED = AttemptResult("interrupted")


@pytest.mark.parametrize(
    ("status", "result", "reason", "had_oom_kill", "kind", "code", "retryable"),
    [
        (0, AttemptResult("succeeded"), None, False, "succeeded", None, False),
        (0, AttemptResult("succeeded"), StopReason.CANCEL, False, "succeeded", None, False),
        (75, INTERRUPTED, StopReason.CANCEL, False, "cancelled", None, False),
        (-9, None, StopReason.CANCEL, False, "cancelled", None, False),
        (1, FAILED, StopReason.CANCEL, False, "cancelled", None, False),
        (75, INTERRUPTED, StopReason.PUT_OFF, False, "requeued", None, False),
        (-9, None, StopReason.PUT_OFF, False, "requeued", None, False),
        (1, FAILED, StopReason.PUT_OFF, False, "failed", "invalid_data", False),
        (75, INTERRUPTED, StopReason.MAX_RUNTIME, False, "failed", "max_runtime_exceeded", False),
        (1, FAILED, None, False, "failed", "invalid_data", False),
        (1, NETWORK, None, False, "failed", "network", True),
        (74, None, None, False, "failed", "disk_full", False),
        (75, INTERRUPTED, None, False, "failed", "killed_by_signal", True),
        (-signal.SIGKILL, None, None, True, "failed", "host_out_of_memory", True),
        (-signal.SIGKILL, None, None, False, "failed", "killed_by_signal", True),
        (-signal.SIGSEGV, None, None, True, "failed", "killed_by_signal", True),
        (2, None, None, False, "failed", "internal_error", False),
    ],
)
def test_the_end_of_a_pipeline_becomes_an_outcome(status, result, reason, had_oom_kill, kind, code, retryable):
    outcome = classify_exit(status, result=result, stop_reason=reason, had_oom_kill=had_oom_kill)

    assert (outcome.kind, outcome.error and outcome.error.code, outcome.retryable) == (kind, code, retryable)
    assert (outcome.exit_code, outcome.signal) == ((status, None) if status >= 0 else (None, -status))


def test_an_error_without_a_step_gets_the_running_one():
    assert name_step(Outcome("failed", error=JobError("x", "y")), "train").error.step == "train"
    assert name_step(Outcome("failed", error=JobError("x", "y", step="fuse")), "train").error.step == "fuse"
    assert name_step(Outcome("succeeded"), "train").error is None


def test_a_pipeline_sees_its_gpus_and_no_secret_of_the_service(tmp_path):
    environ = {
        "PATH": "/bin",
        "HF_HOME": "/cache",
        "HF_HUB_CACHE": "/cache/hub",
        "HF_ENDPOINT": "http://hub",
        "HOME": "/root",
        "HF_TOKEN": "t",
        "WANDB_API_KEY": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_ACCESS_KEY_ID": "s",
        "AWS_ENDPOINT_URL": "http://store",
        "AWS_PROFILE": "store",
        "FINESMITH_STORAGE_OPTIONS": '{"secret": "s"}',
        "FINESMITH_SECRET_KEY": "s",
        "FINESMITH_DATABASE_URL": "u",
        "HUGGING_FACE_HUB_TOKEN": "t",
        "CUDA_VISIBLE_DEVICES": "0,1,2,3",
        "PYTHONPATH": "/plugins",
    }

    owner = OwnerFolder(tmp_path / "owners" / "anna")
    env = build_pipeline_environment(environ, gpus=(2, 3), start_folder=tmp_path, owner=owner)

    assert env["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert env["PATH"] == "/bin"
    assert env["HF_ENDPOINT"] == "http://hub"
    # Home and caches are the owner's, whatever the worker's are.
    caches = [
        env[name] for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
    ]
    assert all(path.startswith(str(owner.home)) for path in caches)
    assert "HF_HUB_CACHE" not in env
    assert {"/plugins", str(tmp_path)} <= set(env["PYTHONPATH"].split(":"))
    assert not {name for name in env if "TOKEN" in name or "KEY" in name or name.startswith(("FINESMITH", "AWS"))}
    bare = build_pipeline_environment({}, gpus=(), start_folder=tmp_path, owner=owner)
    assert bare["CUDA_VISIBLE_DEVICES"] == ""


def test_gpus_that_the_host_does_not_have_are_an_error():
    with pytest.raises(ValueError, match="FINESMITH_WORKER_GPUS"):
        find_gpus((97,))
    assert find_gpus(()) == ()


def test_a_tail_gives_whole_lines_and_at_the_end_the_rest(tmp_path):
    path = tmp_path / "file"
    tail = FileTail(path)
    assert tail.read_lines() == []

    path.write_bytes(b"one\ntw")
    assert tail.read_lines() == [b"one"]
    with path.open("ab") as file:
        file.write(b"o\n\nlast")
    assert tail.read_lines() == [b"two", b""]
    assert tail.read_lines() == []
    assert tail.read_lines(is_final=True) == [b"last"]
    assert tail.read_lines(is_final=True) == []


def test_a_tail_reads_a_long_file_piece_by_piece(tmp_path):
    path = tmp_path / "file"
    lines = [b"%07d" % number for number in range(300_000)]
    path.write_bytes(b"\n".join(lines))
    tail = FileTail(path)

    read = []
    while piece := tail.read_lines(is_final=True):
        assert sum(len(line) + 1 for line in piece) <= 1 << 20
        read += piece

    assert read == lines


@pytest.fixture
def settings(tmp_path):
    models = tmp_path / "models"
    (models / "tiny").mkdir(parents=True)
    return Settings(data_dir=tmp_path / "data", model_root=models)


def test_local_names_become_paths_and_secrets_stay_behind(settings):
    config = {"model_name_or_path": "local:tiny", "tokenizer_name_or_path": "o/n", "huggingface_hub_token": None}

    assert resolve_local_names(config, settings) == {
        "model_name_or_path": str(settings.model_root / "tiny"),
        "tokenizer_name_or_path": "o/n",
    }


@pytest.mark.parametrize("name", ["local:", "local:..", "local:a/b", "local:missing", "local:."])
def test_a_local_name_leads_nowhere_else(settings, name):
    with pytest.raises(StepInputError, match="model_name_or_path"):
        resolve_local_names({"model_name_or_path": name}, settings)


class Leases:
    """A service whose answers to `renew` are given: an outage cannot be had from a real database at will."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.is_asked_out = threading.Event()

    def renew(self, job_id: str, attempt: int) -> LeaseView:
        answer = self.answers.pop(0)
        if not self.answers:
            self.is_asked_out.set()
            self.answers.append(answer)
        if isinstance(answer, Exception):
            raise answer
        return LeaseView(answer)


def test_an_outage_loses_no_lease_and_a_cancel_is_heard_after_it():
    leases = Leases(ConnectionError("away"), StopRequest.CANCEL)
    keeper = LeaseKeeper(leases, job_id="job-1", attempt=1)
    keeper.start()
    assert leases.is_asked_out.wait(10)
    keeper.stop()

    assert keeper.stop_request is StopRequest.CANCEL
    keeper.raise_if_lost()


def test_a_lost_lease_is_lost_for_good():
    leases = Leases(LeaseLost("job-1", 1))
    keeper = LeaseKeeper(leases, job_id="job-1", attempt=1)
    keeper.start()
    assert leases.is_asked_out.wait(10)
    keeper.stop()

    with pytest.raises(LeaseLost):
        keeper.raise_if_lost()


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_stop_is_asked_for_once_and_killed_after_its_grace():
    clock, drain = Clock(), DrainFlag()
    keeper = LeaseKeeper(Leases(), job_id="job-1", attempt=1)
    watch = JobWatch(keeper=keeper, drain=drain, max_runtime_seconds=50.0, grace_seconds=5.0, clock=clock)
    assert not watch.is_stop_due()

    drain.set()
    assert watch.is_stop_due()
    assert not watch.is_stop_due()
    assert watch.stop_reason is StopReason.PUT_OFF
    assert not watch.is_kill_due()
    clock.now = 105.0
    assert watch.is_kill_due()


def test_the_end_of_its_time_outweighs_a_worker_that_goes_down():
    clock, drain = Clock(), DrainFlag()
    keeper = LeaseKeeper(Leases(), job_id="job-1", attempt=1)
    watch = JobWatch(keeper=keeper, drain=drain, max_runtime_seconds=1.0, grace_seconds=5.0, clock=clock)
    drain.set()
    watch.is_stop_due()

    clock.now = 101.0
    watch.is_stop_due()

    assert watch.stop_reason is StopReason.MAX_RUNTIME


@pytest.mark.parametrize(
    ("request_", "reason", "is_killed_at_once"),
    [
        pytest.param(StopRequest.PREEMPT, StopReason.PUT_OFF, False, id="it makes room and goes on later"),
        pytest.param(StopRequest.PAUSE, StopReason.PUT_OFF, False, id="it is paused"),
        pytest.param(StopRequest.CANCEL, StopReason.CANCEL, False, id="it may save a checkpoint"),
        pytest.param(StopRequest.DISCARD, StopReason.CANCEL, True, id="nothing of it is wanted"),
    ],
)
def test_a_request_on_the_row_stops_the_job(request_: StopRequest, reason: StopReason, is_killed_at_once: bool):
    keeper = LeaseKeeper(Leases(), job_id="job-1", attempt=1)
    watch = JobWatch(keeper=keeper, drain=DrainFlag(), max_runtime_seconds=None, grace_seconds=5.0, clock=Clock())
    keeper.stop_request = request_

    assert watch.is_stop_due()
    assert watch.stop_reason is reason
    assert watch.is_kill_due() is is_killed_at_once


def test_a_cancel_outweighs_a_pause_and_a_pause_taken_back_in_time_stops_nothing():
    keeper = LeaseKeeper(Leases(), job_id="job-1", attempt=1)
    watch = JobWatch(keeper=keeper, drain=DrainFlag(), max_runtime_seconds=None, grace_seconds=5.0, clock=Clock())
    keeper.stop_request = StopRequest.PAUSE
    keeper.stop_request = None
    assert not watch.is_stop_due()

    keeper.stop_request = StopRequest.PAUSE
    assert watch.is_stop_due()
    keeper.stop_request = StopRequest.CANCEL
    watch.is_stop_due()
    assert watch.stop_reason is StopReason.CANCEL


class FailingPump:
    """Fails as a full disk does, twice, then works."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.num_done = 0

    def pump(self, *, is_final: bool) -> bool:
        if self.errors:
            raise self.errors.pop(0)
        self.num_done += 1
        return False


def test_a_pump_survives_a_full_disk_and_finishes():
    pump = FailingPump(OSError(28, "full"), ConnectionError("away"))
    thread = PumpThread(pump, keeper=LeaseKeeper(Leases(), job_id="job-1", attempt=1), name="pump")
    thread.start()

    assert thread.finish(timeout_seconds=20)
    assert pump.num_done >= 1


def test_a_pump_that_learns_of_a_lost_lease_tells_the_keeper():
    keeper = LeaseKeeper(Leases(), job_id="job-1", attempt=1)
    thread = PumpThread(FailingPump(LeaseLost("job-1", 1)), keeper=keeper, name="pump")
    thread.start()

    assert thread.finish(timeout_seconds=20)
    assert keeper.is_lost


def test_the_worker_and_its_pipeline_never_import_torch():
    import subprocess
    import sys

    code = (
        "import sys, worker.__main__\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'datasets', 'fastapi', 'app.main'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    repository = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("gpus", "num_processes"), [((), 1), ((3,), 1), ((0, 2), 2), (tuple(range(8)), 8)])
def test_a_job_trains_in_a_process_a_gpu(tmp_path, gpus, num_processes):
    claim = Claim(
        job_id="job-1",
        attempt=1,
        owner="ann",
        config={},
        secrets={},
        steps=("train",),
        gpus=gpus,
        inputs=ClaimInputs(),
        max_runtime_seconds=None,
        priority=0,
    )
    settings = Settings(data_dir=tmp_path)
    stager = InputStager(
        claim, workspace=Workspace(tmp_path), storage=Storage(settings.storage_url), settings=settings, check=list
    )
    assert stager.stage().num_processes == num_processes
