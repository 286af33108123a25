"""The pipeline with real step processes: order, resume, ends and the watch over descendants."""

import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(90)
TOKEN = "hf_" + "s" * 34


def test_steps_run_in_order_and_leave_markers_events_and_log(job):
    job.write({"train": {"metrics": 2, "lines": 3}}, steps=("prepare", "train", "fuse"))

    assert job.run() == 0

    assert job.result().status == "succeeded"
    events = job.events()
    assert [(event.type, event.step) for event in events if event.type.startswith("step.")] == [
        ("step.started", "prepare"),
        ("step.finished", "prepare"),
        ("step.started", "train"),
        ("step.finished", "train"),
        ("step.started", "fuse"),
        ("step.finished", "fuse"),
    ]
    finished = next(event for event in events if event.type == "step.finished" and event.step == "train")
    assert finished.data["artifacts"] == ["adapter"]
    assert finished.data["facts"] == {"loss": 0.5}
    assert [event.data["global_step"] for event in events if event.type == "metrics"] == [1, 2]
    assert "line 2" in job.log()


def test_secrets_reach_the_step_and_neither_log_nor_workspace(job):
    job.write({})

    assert job.run() == 0

    assert "token [redacted]" in job.log()
    for path in job.workspace.root.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_a_second_attempt_skips_what_is_done(job):
    job.write({"train": {"fail_once": "broken"}})
    assert job.run(1) == 1
    job.write({"train": {"fail_once": "broken"}}, attempt=2)

    assert job.run(2) == 0

    assert [(event.type, event.step) for event in job.events(2)] == [
        ("step.skipped", "prepare"),
        ("step.started", "train"),
        ("step.finished", "train"),
    ]


def test_a_step_whose_file_was_cut_short_runs_again(job):
    job.write({})
    assert job.run(1) == 0
    job.workspace.train_data.write_text("")
    job.write({}, attempt=2)

    assert job.run(2) == 0

    assert ("step.started", "prepare") in [(event.type, event.step) for event in job.events(2)]


def test_another_config_makes_done_steps_run_again(job):
    job.write({})
    assert job.run(1) == 0
    job.write({}, attempt=2, max_steps=5)

    assert job.run(2) == 0

    assert [event.type for event in job.events(2)].count("step.started") == 2


@pytest.mark.parametrize(
    ("order", "code", "param", "retryable"),
    [
        ("disk_full", "disk_full", None, False),
        ("data", "invalid_data", "dataset_key", False),
        ("kill", "killed_by_signal", None, True),
        ("broken", "user_code", None, False),
    ],
)
def test_a_failing_step_ends_the_attempt_with_its_error(job, order, code, param, retryable):
    job.write({"prepare": {"fail": order}})

    assert job.run() == 1

    error = job.result().error
    assert (error.code, error.param, error.step, error.retryable) == (code, param, "prepare", retryable)
    assert not job.workspace.marker("train").exists()


def test_an_error_that_holds_a_token_is_redacted(job):
    job.write({"prepare": {"fail": "secret"}})

    job.run()

    assert "hf_aaa" not in job.result().error.message
    assert "[redacted]" in job.result().error.message
    assert "hf_aaa" not in job.log()


def test_an_unknown_config_key_is_the_steps_error(job):
    job.write({}, learning_rat=1.0)

    assert job.run() == 1

    assert job.result().error.code in ("invalid_config", "unknown_key")


def test_sigterm_lets_training_save_and_ends_with_75(job, until):
    job.write({"train": {"sleep": 60}})
    process = job.start()
    until(lambda: (job.workspace.root / "asleep").exists())

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=10) == 75
    assert job.result().status == "interrupted"
    assert [event.data["global_step"] for event in job.events() if event.type == "checkpoint.saved"] == [7]


def test_sigterm_ends_any_other_step_at_once_with_75(job, until):
    job.write({"prepare": {"sleep": 60}})
    process = job.start()
    until(lambda: (job.workspace.root / "asleep").exists())

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=10) == 75


@pytest.mark.parametrize("how", ["close", "kill"])
def test_nothing_survives_the_end_of_who_started_it(job, until, is_alive, how):
    pid_file = job.workspace.root / "pids"
    job.write({"train": {"grandchild": str(pid_file), "ignore_signals": 600}})
    process = job.start()
    until(lambda: (job.workspace.root / "asleep").exists())
    pids = [int(word) for word in pid_file.read_text().split()]
    assert all(is_alive(pid) for pid in pids)

    if how == "close":
        process.stdin.close()
        until(lambda: not any(is_alive(pid) for pid in [*pids, process.pid]), seconds=2.0)
    else:
        # The pipeline itself is killed: the step's own watch ends it and what it started.
        process.kill()
        until(lambda: not any(is_alive(pid) for pid in pids), seconds=2.0)


def test_a_grandchild_does_not_outlive_its_step(job, is_alive):
    pid_file = job.workspace.root / "pids"
    job.write({"prepare": {"grandchild": str(pid_file)}})

    assert job.run() == 0

    assert not any(is_alive(int(word)) for word in pid_file.read_text().split())


def test_without_prepare_the_inputs_are_staged_by_a_process_of_their_own(job):
    job.write({}, steps=("train",))

    assert job.run() == 0

    assert '"owner/name"' in Path(job.workspace.staged).read_text()
