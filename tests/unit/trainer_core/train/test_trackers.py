"""Trackers: their files, their names, their keys, and that their failures are not the training's."""

import importlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.unit.trainer_core.train.conftest import RecordedEvents, make_dataset
from trainer_core.config import Config
from trainer_core.config.tracking_checks import find_tracking_warnings
from trainer_core.context import StepContext
from trainer_core.errors import ConfigError
from trainer_core.steps.train import train
from trainer_core.trainers.tracking import building
from trainer_core.trainers.tracking.base import TrackedRun
from trainer_core.trainers.tracking.building import check_trackers
from trainer_core.trainers.tracking.callback import TrackingCallback, name_metrics
from trainer_core.trainers.tracking.feed import TrackerFeed

KEY = "canary" + "7" * 40
MakeConfig = Callable[..., Config]


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("WANDB_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def test_wandb_offline_writes_its_run_below_the_output_folder_and_no_key_anywhere(
    make_config: MakeConfig,
    context: StepContext,
    events: RecordedEvents,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = dict(os.environ)
    config = make_config(
        **{"report_to_wandb": True, "project_name": "proj", "wandb_entity": "team", "run_name": "first run"},
        wandb_api_key=KEY,
        max_steps=2,
        apply_lora=True,
    )
    experiment = train(config, make_dataset(4), make_dataset(2), context=context)
    importlib.import_module("wandb").teardown()
    assert {name for name, value in os.environ.items() if before.get(name) != value and "WANDB" in name} == set()
    assert list((tmp_path / "here").iterdir()) == []
    [run] = (tmp_path / "outputs" / "wandb").glob("offline-run-*/run-*.wandb")
    content = run.read_bytes()
    for wanted in (b"proj", b"team", b"first run", b"train/loss", b"eval/loss", b"lora_rank"):
        assert wanted in content, wanted
    assert [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()] == []
    assert KEY not in "".join(capfd.readouterr()) + str(events.all)
    assert not any("wandb" in name for name in experiment.result.artifacts[0].files)
    assert "reports to wandb" in events.messages("decision")
    assert events.of_type("warning") == []


def test_mlflow_and_tensorboard_write_below_the_output_folder(
    make_config: MakeConfig, context: StepContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = dict(os.environ)
    config = make_config(report_to="mlflow,tensorboard", project_name="proj", run_name="run/1", max_steps=2)
    train(config, make_dataset(4), make_dataset(2), context=context)
    assert {name: value for name, value in os.environ.items() if before.get(name) != value and "MLFLOW" in name} == {}
    assert list((tmp_path / "here").iterdir()) == []

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = MlflowClient(tracking_uri=(tmp_path / "outputs" / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("proj")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run/1", "FINISHED")
    assert run.data.params["max_steps"] == "2"
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")] == [1, 2]
    assert "eval/loss" in run.data.metrics

    accumulator = EventAccumulator(str(tmp_path / "outputs" / "runs" / "run_1"))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("train/loss")] == [1, 2]


@pytest.mark.parametrize("is_job", [True, False])
def test_wandb_without_a_key_fails_before_the_model_is_loaded(make_config: MakeConfig, is_job: bool) -> None:
    config = make_config(report_to_wandb=True)
    with pytest.raises(ConfigError, match="wandb_api_key") as caught:
        check_trackers(config, is_job=is_job)
    assert ("WANDB_API_KEY" in str(caught.value)) != is_job
    with pytest.raises(ConfigError, match="wandb_api_key"):
        train(make_config(report_to="wandb", model_name_or_path="/does/not/exist"), make_dataset(2))


def test_the_key_comes_from_the_field_the_variable_or_the_saved_login(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_trackers(make_config(report_to_wandb=True, wandb_api_key=KEY), is_job=True)
    asked = make_config(report_to_wandb=True)
    host = urlsplit(importlib.import_module("wandb").Settings().base_url).hostname
    (tmp_path / "netrc").write_text(f"machine {host}\n  login user\n  password {KEY}\n")
    (tmp_path / "netrc").chmod(0o600)
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_API_KEY", KEY)
        check_trackers(asked, is_job=False)
        with pytest.raises(ConfigError):
            check_trackers(asked, is_job=True)
    with monkeypatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        check_trackers(asked, is_job=True)
    with monkeypatch.context() as patch:
        patch.setenv("NETRC", str(tmp_path / "netrc"))
        check_trackers(asked, is_job=False)
        with pytest.raises(ConfigError):
            check_trackers(asked, is_job=True)


@pytest.mark.parametrize("key", ["short", "x" * 30, "ä" * 40])
def test_what_is_no_key_of_wandb_is_refused_without_repeating_it(make_config: MakeConfig, key: str) -> None:
    with pytest.raises(ConfigError, match="wandb_api_key") as caught:
        check_trackers(make_config(report_to_wandb=True, wandb_api_key=key), is_job=True)
    assert key not in str(caught.value)


@pytest.mark.parametrize("name", ["wandb", "mlflow", "tensorboard"])
def test_a_missing_package_names_the_extra(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    # The packages are installed here.
    monkeypatch.setattr(building, "find_spec", lambda module: None)
    with pytest.raises(ConfigError, match=f"{name} is not installed; .*'finesmith-server\\[") as caught:
        check_trackers(make_config(report_to=name), is_job=False)
    assert caught.value.param == "report_to"


def test_a_tracker_server_that_is_dead_does_not_fail_the_training(
    make_config: MakeConfig,
    context: StepContext,
    events: RecordedEvents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    experiment = train(make_config(report_to="mlflow", max_steps=2), make_dataset(4), context=context)
    assert experiment.result.facts["global_step"] == 2
    assert "mlflow has failed" in events.messages("warning")


class BrokenTracker:
    """Fails where it is told to, with a secret in its words."""

    name = "broken"

    def __init__(self, where: str) -> None:
        self._where = where
        self.calls: list[str] = []

    def _fail(self, where: str) -> None:
        self.calls.append(where)
        if where == self._where:
            raise RuntimeError(f"401 for {KEY}")

    def start(self) -> str:
        self._fail("start")
        return "nowhere"

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._fail("log")

    def finish(self, *, has_succeeded: bool) -> None:
        self._fail(f"finish {has_succeeded}")


@pytest.mark.parametrize(
    ("where", "calls"),
    [
        ("start", ["start"]),
        ("log", ["start", "log"]),
        ("never", ["start", "log", "log", "finish False"]),
    ],
)
def test_what_a_tracker_raises_is_told_once_and_without_the_key(
    events: RecordedEvents, where: str, calls: list[str]
) -> None:
    tracker = BrokenTracker(where)
    feed = TrackerFeed(tracker, events=events, clean=lambda text: text.replace(KEY, "[redacted]"))
    feed.start()
    feed.log({"train/loss": 1.0}, step=1)
    feed.log({"train/loss": 1.0}, step=2)
    feed.close(has_succeeded=False)
    feed.close(has_succeeded=True)
    assert tracker.calls == calls
    assert len(events.of_type("warning")) == (where != "never")
    assert KEY not in str(events.all)


def test_a_training_that_fails_ends_its_runs_as_failed(
    make_config: MakeConfig, context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = BrokenTracker("never")
    feed = TrackerFeed(tracker, events=context.events, clean=str)
    # A tracker of our own in place of those of the Config.
    monkeypatch.setattr(
        "trainer_core.experiments.base.build_tracking_callback", lambda *_, **__: TrackingCallback([feed])
    )

    class Fatal:
        def __init__(self) -> None:
            self.num_left = 1

        def __call__(self, *_: Any) -> None:
            self.num_left -= 1
            if self.num_left < 0:
                raise RuntimeError("the data are gone")

    from trainer_core.experiments import Experiment

    experiment = Experiment(make_config(max_steps=3), train_dataset=make_dataset(8))
    experiment.context = context
    experiment.build()
    fatal = Fatal()
    experiment.model.register_forward_pre_hook(lambda *_: fatal())  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="gone"):
        experiment.run()
    assert tracker.calls == ["start", "log", "finish False"]


def test_metrics_are_named_by_what_they_measure() -> None:
    assert name_metrics({"loss": 1, "eval_loss": 2.0, "note": "x", "flag": True}) == {
        "train/loss": 1.0,
        "eval/loss": 2.0,
    }


def test_names_without_a_tracker_and_two_projects_are_warned_of(make_config: MakeConfig) -> None:
    def warned(**values: object) -> list[str | None]:
        return [problem.param for problem in find_tracking_warnings(make_config(**values))]

    assert warned(report_to_wandb=True, project_name="a", wandb_entity="e") == []
    assert warned(report_to_wandb=True, project_name="a", wandb_project="b") == ["wandb_project"]
    assert warned(report_to="mlflow", wandb_entity="e") == ["wandb_entity"]
    assert warned(run_name="r", project_name="a") == ["project_name", "run_name"]
    assert make_config(project_name="a", wandb_project="b").resolved_project_name == "a"


def test_the_key_is_in_no_repr() -> None:
    assert KEY not in repr(TrackedRun(Path(), {}, None, None, api_key=KEY))
