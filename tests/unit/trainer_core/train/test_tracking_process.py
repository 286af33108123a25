"""The process that tells trackers what a training has written down, with the real libraries and local stores."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer_core.attempt.tracking_relay import TrackingReader, TrackingRecord, append_record
from trainer_core.context import StepContext
from trainer_core.enums import Step
from trainer_core.events import EventRecord
from trainer_core.job_spec import JobSpec
from trainer_core.track_main import build_sync_command, sync_offline_runs
from trainer_core.trainers.tracking.building import build_tracking_callback
from trainer_core.trainers.tracking.relay import RelayTracker
from trainer_core.workspace import Workspace

ROOT = Path(__file__).parents[4]
KEY = "canary" + "7" * 40
RUN = {"config": {"lora_rank": 8}, "project": "proj", "run_name": "first run", "entity": None}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "job-1")
    workspace.attempt_dir(1).mkdir(parents=True)
    spec = JobSpec(job_id="job-1", attempt=1, config={}, steps=(Step.TRAIN,))
    workspace.attempt(1).job.write_text(spec.to_json())
    return workspace


def write(workspace: Workspace, *names: str, has_succeeded: bool | None = True) -> None:
    path = workspace.attempt(1).tracking
    for name in names:
        append_record(path, TrackingRecord("start", name, run=RUN))
        for step in (1, 2):
            append_record(path, TrackingRecord("log", name, metrics={"train/loss": 1.0 / step}, step=step))
        if has_succeeded is not None:
            append_record(path, TrackingRecord("finish", name, has_succeeded=has_succeeded))
    append_record(path, TrackingRecord("end"))


def track(workspace: Workspace, **variables: str) -> list[EventRecord]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "MLFLOW_"))}
    argv = [sys.executable, "-P", "-m", "trainer_core.track_main", "--workspace", str(workspace.root)]
    process = subprocess.Popen(
        [*argv, "--attempt", "1", "--step", "train"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=workspace.root,
        env={**clean, "PYTHONPATH": str(ROOT), "HOME": str(workspace.root), **variables},
    )
    process.stdin.write(json.dumps({"secrets": {"wandb_api_key": KEY}}).encode() + b"\n")
    process.stdin.flush()
    output = process.stdout.read().decode()
    process.stdin.close()
    process.stdout.close()
    assert process.wait(timeout=120) == 0, output
    assert KEY not in output
    return [EventRecord.from_line(line) for line in workspace.attempt(1).events.read_bytes().splitlines()]


def find_leaks(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and KEY.encode() in path.read_bytes():
            yield path


def test_mlflow_gets_the_run_in_the_store_that_the_worker_names(workspace: Workspace, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = tmp_path / "store"
    write(workspace, "mlflow")
    events = track(workspace, MLFLOW_TRACKING_URI=store.as_uri())

    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    try:
        client = MlflowClient(tracking_uri=store.as_uri())
        experiment = client.get_experiment_by_name("proj")
        [run] = client.search_runs([experiment.experiment_id])
    finally:
        del os.environ["MLFLOW_ALLOW_FILE_STORE"]
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "first run"
    assert run.data.params["lora_rank"] == "8"
    assert [metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")] == [1.0, 0.5]
    assert [event.message.partition(",")[0] for event in events] == ["reports to mlflow: proj"]
    assert not list(find_leaks(workspace.root))


@pytest.mark.slow
def test_wandb_gets_the_run_and_no_key_is_written(workspace: Workspace) -> None:
    write(workspace, "wandb", has_succeeded=None)
    events = track(workspace, WANDB_MODE="offline")
    [run] = (workspace.trackers / "wandb").glob("offline-run-*/run-*.wandb")
    content = run.read_bytes()
    for wanted in (b"proj", b"first run", b"train/loss", b"lora_rank"):
        assert wanted in content, wanted
    assert [event.type for event in events] == ["decision"]
    assert not list(find_leaks(workspace.root))


def test_offline_runs_are_sent_by_an_argv_list_with_the_key_in_its_environment_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "wandb" / "offline-run-1").mkdir(parents=True)
    seen: dict[str, object] = {}

    def remember(command: tuple[str, ...], **options: object) -> subprocess.CompletedProcess[bytes]:
        seen.update(options, command=command)
        return subprocess.CompletedProcess(command, 3)

    # W&B's server is the network: what is looked at is what its own program is started with.
    monkeypatch.setattr("trainer_core.track_main.subprocess.run", remember)
    assert sync_offline_runs(tmp_path, key=KEY) == 3
    assert seen["command"] == build_sync_command(tmp_path)
    assert seen["command"][-1] == str(tmp_path / "wandb" / "offline-run-1")
    assert KEY not in str(seen["command"])
    assert seen["env"]["WANDB_API_KEY"] == KEY
    assert "shell" not in seen
    assert "WANDB_API_KEY" not in os.environ


def test_in_a_job_remote_trackers_are_relayed_and_tensorboard_is_not(
    make_config, context: StepContext, tmp_path: Path
) -> None:
    import dataclasses

    in_job = dataclasses.replace(context, tracking=tmp_path / "tracking.jsonl")
    config = make_config(report_to="mlflow,tensorboard,wandb", wandb_api_key="x" * 40, project_name="proj")
    trackers = [feed._tracker for feed in build_tracking_callback(config, context=in_job, is_job=True)._feeds]
    assert [isinstance(tracker, RelayTracker) for tracker in trackers] == [True, False, True]
    trackers[0].start()
    trackers[0].log({"train/loss": 1.0}, step=1)
    trackers[0].finish(has_succeeded=True)
    records = list(TrackingReader(tmp_path / "tracking.jsonl").read())
    assert [record.kind for record in records] == ["start", "log", "finish"]
    assert records[0].run["project"] == "proj"
    assert "xxxxx" not in (tmp_path / "tracking.jsonl").read_text()


def test_a_reader_takes_whole_records_only_and_no_link_is_written_through(tmp_path: Path) -> None:
    path = tmp_path / "tracking.jsonl"
    reader = TrackingReader(path)
    assert list(reader.read()) == []
    path.write_bytes(b'{"kind": "end"}\nnonsense\n{"kind": "lo')
    assert [record.kind for record in reader.read()] == ["end"]
    with path.open("ab") as file:
        file.write(b'g", "step": 3}\n')
    assert [(record.kind, record.step) for record in reader.read()] == [("log", 3)]
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(OSError, match="symbolic"):
        append_record(tmp_path / "link", TrackingRecord("end"))
