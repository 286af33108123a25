"""A step of several processes: the real pipeline, the real torchrun, and ranks that do as they are told."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.trainer_core.proc.conftest import HERE, TOKEN, StubJob
from trainer_core.attempt.outcome import Failure, read_failure
from trainer_core.attempt.ranks import (
    INTERRUPTED,
    RANK_LOST,
    classify_ranks_exit,
    describe_lost_peer,
    write_rank_failure,
)
from trainer_core.enums import Step
from trainer_core.launch.base import LaunchRequest
from trainer_core.launch.by_resources import LauncherByResources, uses_deepspeed
from trainer_core.launch.deepspeed import DeepSpeedLauncher
from trainer_core.launch.torchrun import TorchrunLauncher

REQUEST = LaunchRequest(Path("/w"), attempt=2, step=Step.TRAIN, num_processes=2)
STEP_ARGUMENTS = ("--workspace", "/w", "--attempt", "2", "--step", "train")


def test_the_command_of_torchrun(monkeypatch):
    for name in ("GLOO_SOCKET_IFNAME", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(9)))
    command = TorchrunLauncher().build_command(REQUEST)

    assert command.argv == (
        *(sys.executable, "-P", "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--max-restarts=0"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"),
        *("-m", "trainer_core.step_main", *STEP_ARGUMENTS),
    )
    assert command.env == {"PYTHONSAFEPATH": "1", "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "4"}
    assert (command.num_processes, command.stop_file) == (2, Path("/w/attempts/2/stop-train"))


@pytest.mark.parametrize(
    ("devices", "world"),
    [
        (None, "eyJsb2NhbGhvc3QiOiBbMCwgMV19"),  # {"localhost": [0, 1]}
        ("3,5", "eyJsb2NhbGhvc3QiOiBbMywgNV19"),  # {"localhost": [3, 5]}: the GPUs of other jobs are left alone
    ],
)
def test_the_command_of_deepspeeds_launcher(monkeypatch, devices, world):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices) if devices else monkeypatch.delenv(
        "CUDA_VISIBLE_DEVICES", raising=False
    )
    command = DeepSpeedLauncher(choose_port=lambda: 4000).build_command(REQUEST)

    assert command.argv == (
        *(sys.executable, "-P", "-m", "deepspeed.launcher.launch", f"--world_info={world}"),
        *("--master_addr=127.0.0.1", "--master_port=4000", "--no_local_rank"),
        *("--module", "trainer_core.step_main", *STEP_ARGUMENTS),
    )


@pytest.mark.parametrize(
    ("config", "num_processes", "program"),
    [
        ({}, 1, "trainer_core.step_main"),
        ({"deepspeed_stage": 2}, 1, "trainer_core.step_main"),
        ({}, 2, "torch.distributed.run"),
        ({"fsdp_strategy": "full_shard"}, 2, "torch.distributed.run"),
        ({"deepspeed_stage": "stage_2"}, 2, "deepspeed.launcher.launch"),
        ({"deepspeed_config_path": "/c.json"}, 2, "deepspeed.launcher.launch"),
    ],
)
def test_the_launcher_follows_processes_and_config(config, num_processes, program):
    command = LauncherByResources(config).build_command(replace(REQUEST, num_processes=num_processes))

    assert command.argv[3] == program


@pytest.mark.parametrize(("stage", "is_on"), [(0, False), ("0", False), ("stage_0", False), (None, False), ("3", True)])
def test_every_spelling_of_a_stage_is_known_before_validation(stage, is_on):
    assert uses_deepspeed({"deepspeed_stage": stage}) is is_on


LOST = Failure(RANK_LOST, "lost", step="train", retryable=True)
STOPPED = Failure(INTERRUPTED, "stopped", step="train")
WRONG = Failure("invalid_data", "row 3", step="train")


@pytest.mark.parametrize("order", [(LOST, STOPPED, WRONG), (WRONG, STOPPED, LOST), (STOPPED, WRONG, LOST)])
def test_the_best_reason_of_all_ranks_stays(tmp_path, order):
    for failure in order:
        write_rank_failure(tmp_path / "error.json", failure)

    assert read_failure(tmp_path / "error.json") == WRONG


@pytest.mark.parametrize(
    ("status", "failure", "was_stopped", "had_oom_kill", "expected"),
    [
        (0, None, False, False, ("succeeded", None, None)),
        (0, STOPPED, True, False, ("interrupted", None, None)),
        (1, WRONG, True, False, ("failed", "invalid_data", False)),
        (1, LOST, False, False, ("failed", RANK_LOST, True)),
        (1, None, False, False, ("failed", RANK_LOST, True)),
        (1, LOST, True, False, ("interrupted", None, None)),
        (1, LOST, False, True, ("failed", "host_out_of_memory", True)),
        (74, None, False, False, ("failed", "disk_full", False)),
    ],
)
def test_how_a_step_of_ranks_ended(status, failure, was_stopped, had_oom_kill, expected):
    result = classify_ranks_exit(
        status, step=Step.TRAIN, failure=failure, was_stopped=was_stopped, had_oom_kill=had_oom_kill
    )

    error = result.error
    assert (result.status, error and error.code, error and error.retryable) == expected


def test_an_error_of_its_own_is_no_lost_peer():
    failure = Failure("internal_error", "mat1 and mat2 shapes cannot be multiplied", step="train")

    assert describe_lost_peer(RuntimeError(failure.message), failure) == failure
    assert describe_lost_peer(RuntimeError("Connection reset by peer"), failure).code == RANK_LOST


class RanksJob(StubJob):
    """A job whose training is two ranks."""

    def start(self, attempt: int = 1) -> subprocess.Popen[bytes]:
        path = self.workspace.attempt(attempt).job
        path.write_text(path.read_text().replace('"num_processes": 1', '"num_processes": 2'))
        return self.start_program(HERE / "stub_ranks_pipeline.py", attempt=attempt)

    def order(self, **orders: str) -> None:
        self.write({})
        (self.workspace.root / "ranks.json").write_text(json.dumps({name[-1]: order for name, order in orders.items()}))

    def ranks(self) -> list[list[str]]:
        return [path.read_text().split() for path in sorted(self.workspace.root.glob("rank-?"))]


@pytest.fixture
def ranks_job(tmp_path: Path) -> Iterator[RanksJob]:
    job = RanksJob(tmp_path)
    yield job
    for process in job.started:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdin.close()


def test_no_rank_gets_the_token_and_only_the_first_writes(ranks_job):
    ranks_job.order(rank_0="go", rank_1="go")

    assert ranks_job.run() == 0, ranks_job.log()

    assert [words[1:] for words in ranks_job.ranks()] == [["2", "False"], ["2", "False"]]
    assert [event.data for event in ranks_job.events() if event.type == "metrics"] == [{"rank": 0}]
    assert [event.type for event in ranks_job.events() if event.step == "train"].count("step.finished") == 1
    for path in ranks_job.workspace.root.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_a_killed_rank_ends_the_attempt_with_a_retryable_code(ranks_job, is_alive):
    ranks_job.order(rank_0="lose", rank_1="kill")

    assert ranks_job.run() == 1

    error = ranks_job.result().error
    assert (error.code, error.step, error.retryable) == (RANK_LOST, "train", True)
    assert not any(is_alive(int(words[0])) for words in ranks_job.ranks())


def test_the_reason_of_one_rank_is_the_jobs(ranks_job):
    ranks_job.order(rank_0="lose", rank_1="data")

    assert ranks_job.run() == 1

    error = ranks_job.result().error
    assert (error.code, error.param, error.retryable) == ("invalid_data", "dataset_key", False)


def test_sigterm_lets_all_ranks_end_and_the_first_save(ranks_job, until):
    ranks_job.order(rank_0="stop", rank_1="stop")
    process = ranks_job.start()
    until(lambda: len(ranks_job.ranks()) == 2, seconds=60)

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=30) == 75, ranks_job.log()
    assert ranks_job.result().status == "interrupted"
    assert [event.data["global_step"] for event in ranks_job.events() if event.type == "checkpoint.saved"] == [7]


@pytest.mark.parametrize("how", ["close", "kill"])
def test_no_rank_outlives_the_pipeline(ranks_job, until, is_alive, how):
    ranks_job.order(rank_0="sleep", rank_1="sleep")
    process = ranks_job.start()
    until(lambda: len(ranks_job.ranks()) == 2, seconds=60)
    pids = [int(words[0]) for words in ranks_job.ranks()]
    assert all(is_alive(pid) for pid in pids)

    if how == "close":
        process.stdin.close()
    else:
        process.kill()

    until(lambda: not any(is_alive(pid) for pid in pids), seconds=5.0)
