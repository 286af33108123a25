"""What each process of a job may see: network and secrets by need."""

import ast
import json
import os
import subprocess
import sys

import pytest

from tests.unit.trainer_core.proc.conftest import HERE, REPOSITORY, TOKEN, StubJob
from tests.unit.trainer_core.proc.test_cage import needs_namespaces
from trainer_core.attempt.tracking_relay import reports_elsewhere

KEY = "k3y_" + "7" * 40


def run(job: StubJob, *arguments: str, secrets: dict[str, str]) -> None:
    argv = [sys.executable, "-P", str(HERE / "look_pipeline.py"), "--workspace", str(job.workspace.root)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    process = subprocess.Popen(
        [*argv, "--attempt", "1", *arguments], stdin=subprocess.PIPE, env={**env, "PYTHONPATH": str(REPOSITORY)}
    )
    job.started.append(process)
    process.stdin.write(json.dumps({"secrets": secrets}).encode() + b"\n")
    process.stdin.flush()
    assert process.wait(timeout=60) == 0, job.log()


def looked(job: StubJob) -> dict[str, dict]:
    events = [event for event in job.events() if event.message == "looked"]
    texts = {
        event.step: {
            name: "".join(value) if name != "interfaces" and isinstance(value, list) else value
            for name, value in event.data.items()
        }
        for event in events
    }
    assert set(texts) == {"prepare", "train"}
    return texts


@needs_namespaces
def test_only_prepare_and_the_uploaders_have_a_network_and_a_token(job: StubJob) -> None:
    job.write({}, report_to=["mlflow"])
    run(job, "--network", "isolated", secrets={"huggingface_hub_token": TOKEN, "wandb_api_key": KEY})

    steps = looked(job)
    assert len(steps["prepare"]["interfaces"]) > 1
    assert steps["train"]["interfaces"] == ["lo"]
    assert (steps["prepare"]["offline"], steps["train"]["offline"]) == (None, "1")
    assert (steps["prepare"]["token"], steps["train"]["token"]) == (TOKEN, None)
    # Whether there is a key is checked before the training, for which something of its form will do.
    assert {steps[step]["key"] for step in steps} == {"xxx_" + "x" * 40}

    tracked = ast.literal_eval((job.workspace.root / "tracked.txt").read_text())
    assert tracked["secrets"] == ["wandb_api_key"]
    assert "".join(tracked["key"]) == KEY
    assert len(tracked["interfaces"]) > 1
    assert tracked["kinds"] == ["start", "log", "finish", "end"]
    for path in job.workspace.root.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_with_the_hosts_network_steps_see_it_and_get_no_more_secrets(job: StubJob) -> None:
    job.write({})
    run(job, "--network", "host", secrets={"huggingface_hub_token": TOKEN})
    train = looked(job)["train"]
    assert len(train["interfaces"]) > 1
    assert (train["token"], train["key"], train["wandb_mode"]) == (None, None, "offline")
    # Nothing is reported: no process for it.
    assert not (job.workspace.root / "tracked.txt").exists()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, False),
        ({"report_to": []}, False),
        ({"report_to": ["tensorboard"]}, False),
        ({"report_to": "tensorboard, mlflow"}, True),
        ({"report_to": ["wandb"]}, True),
        ({"report_to_wandb": True}, True),
        ({"report_to": None, "report_to_wandb": None}, False),
    ],
)
def test_a_tracker_that_needs_a_network_is_seen_in_a_config(config: dict, expected: bool) -> None:
    assert reports_elsewhere(config) is expected


def test_spared_processes_outlive_what_is_killed_beside_them() -> None:
    code = "import subprocess; one = subprocess.Popen(['/bin/sleep', '60']); print(one.pid, flush=True); one.wait()"
    program = [sys.executable, "-c", code]
    script = f"""
import subprocess
from trainer_core.watchdog import become_subreaper, find_descendants, kill_descendants
become_subreaper()
spared, other = (subprocess.Popen({program!r}, stdout=subprocess.PIPE) for _ in range(2))
below = int(spared.stdout.readline())
other.stdout.readline()
assert kill_descendants(spared=[spared.pid])
assert sorted(find_descendants()) == sorted([spared.pid, below]), find_descendants()
assert kill_descendants()
assert find_descendants() == []
"""
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=env)
