"""What a worker announces: the plugins' keys too, and what is built in even when a plugin is broken."""

import pytest

pytestmark = pytest.mark.timeout(60)

PLUGIN = """
def register():
    from trainer_core.datasets import datasets_registry
    datasets_registry.add(key="plugged", value="my_plugin:Data")

def break_down():
    raise RuntimeError("no such wheel")
"""


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
