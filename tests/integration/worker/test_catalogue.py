"""What a worker announces: the plugins' keys too, and what is built in even when a plugin is broken."""

import pytest

from app.jobs.errors import InvalidSubmission
from app.states import JobStatus

pytestmark = pytest.mark.timeout(60)

PLUGIN = """
def register():
    from trainer_core.datasets import datasets_registry
    datasets_registry.add(key="plugged", value="my_plugin:Data")

def break_down():
    raise RuntimeError("no such wheel")
"""


BROKEN = {
    "missing": ("import a_wheel_that_is_not_there\n", "a_wheel_that_is_not_there"),
    "exiting": ("import sys\nsys.exit('goodbye')\n", "goodbye"),
    "wrong": ("this is no Python\n", "SyntaxError"),
}
CONFIGS = """
import dataclasses
from trainer_core.config import Config, configs_registry

@dataclasses.dataclass
class Mine(Config):
    strength: float = dataclasses.field(default=0.5, metadata={"help": "How strong."})

def register():
    print("a plugin that talks")
    configs_registry.add(key="mine", value=Mine)
    configs_registry.add(key="odd", value=dict)
"""


def test_plugins_that_fail_are_told_of_the_worker_and_the_others_work(build_installation, until, monkeypatch):
    installation = build_installation("plugins-several")
    folder = installation.settings.data_dir
    for name, (code, _) in BROKEN.items():
        (folder / f"{name}_plugin.py").write_text(code)
    (folder / "config_plugin.py").write_text(CONFIGS)
    plugins = [*(f"{name}_plugin:register" for name in BROKEN), "config_plugin:register", "no colon"]
    monkeypatch.setenv("FINESMITH_PLUGINS", ",".join(plugins))

    installation.start_worker(program="-m worker")

    def failures() -> dict[str, str]:
        [worker] = installation.workers.list()
        return {error.plugin: error.message for error in worker.plugin_errors}

    until(failures, seconds=60)
    assert set(failures()) == {*(f"{name}_plugin:register" for name in BROKEN), "no colon", "configs_registry 'odd'"}
    for name, (_, reason) in BROKEN.items():
        assert reason in failures()[f"{name}_plugin:register"]
    installation.jobs._workers._cached = None
    catalogue = installation.workers.current_catalogue()
    assert catalogue.registries["configs"] == ("base", "mine")
    assert catalogue.configs["mine"]["properties"]["strength"]["description"] == "How strong."
    job_id = installation.submit(config={"config_key": "mine", "strength": 0.25})
    assert installation.get(job_id).config["strength"] == 0.25
    with pytest.raises(InvalidSubmission, match=r"'missing_plugin:register' failed: .*a_wheel_that_is_not_there"):
        installation.submit(config={"dataset_key": "of_the_missing"})


def test_a_plugin_that_takes_its_process_along_leaves_a_worker_that_does_what_is_built_in(
    build_installation, until, monkeypatch
):
    installation = build_installation("plugins-fatal")
    (installation.settings.data_dir / "fatal_plugin.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.setenv("FINESMITH_PLUGINS", "fatal_plugin:register")
    installation.start_worker(program="-m worker")
    until(lambda: installation.workers.list()[0].plugin_errors, seconds=60)
    [error] = installation.workers.list()[0].plugin_errors
    assert (error.plugin, "status 7" in error.message) == ("fatal_plugin:register", True)
    assert "general" in installation.workers.current_catalogue().registries["datasets"]


@pytest.mark.parametrize(("plugin", "is_announced"), [("my_plugin:register", True), ("my_plugin:break_down", False)])
def test_a_worker_announces_the_plugins_of_the_folder_it_was_started_in(
    build_installation, until, monkeypatch, plugin, is_announced
):
    installation = build_installation(f"plugins-{is_announced}")
    (installation.settings.data_dir / "my_plugin.py").write_text(PLUGIN)
    monkeypatch.setenv("FINESMITH_PLUGINS", plugin)

    worker = installation.start_worker(program="-m worker")

    if is_announced:
        until(lambda: "plugged" in installation.workers.current_catalogue().registries["datasets"])
    else:
        until(lambda: "no such wheel" in worker.log_path.read_text())
        assert "plugged" not in installation.workers.current_catalogue().registries["datasets"]
    assert "general" in installation.workers.current_catalogue().registries["datasets"]


FICKLE = """
import dataclasses, pathlib
from trainer_core.config import Config, configs_registry

@dataclasses.dataclass
class Mine(Config):
    strength: float = 0.5

def register():
    if not (pathlib.Path(__file__).parent / "whole").exists():
        raise RuntimeError("half of it is gone")
    configs_registry.add(key="mine", value=Mine)
"""


def test_a_job_whose_plugin_breaks_after_it_was_announced_fails_with_the_reason(build_installation, until, monkeypatch):
    installation = build_installation("plugins-fickle")
    folder = installation.settings.data_dir
    (folder / "fickle_plugin.py").write_text(FICKLE)
    (folder / "whole").touch()
    monkeypatch.setenv("FINESMITH_PLUGINS", "fickle_plugin:register")
    installation.start_worker()
    until(lambda: "mine" in installation.workers.current_catalogue().registries["configs"], seconds=60)
    installation.jobs._workers._cached = None
    (folder / "whole").unlink()

    job = installation.wait(installation.submit({}, config={"config_key": "mine"}))
    assert (job.status, job.error.code) == (JobStatus.FAILED, "unknown_key")
    assert "the plugin 'fickle_plugin:register' failed: RuntimeError: half of it is gone" in job.error.message
    # Others do not need it.
    other = installation.wait(installation.submit({}))
    assert other.status is JobStatus.SUCCEEDED, other.error
    assert "half of it is gone" in installation.events(other.id, "warning")[0].message
