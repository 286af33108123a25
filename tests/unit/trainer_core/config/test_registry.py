"""Registries and plugins."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer_core.config import configs_registry
from trainer_core.errors import PluginError, UnknownKeyError
from trainer_core.plugins import load_plugins
from trainer_core.registry import Registry, note_missing_plugins


def test_a_registry_gives_what_was_added() -> None:
    registry: Registry[type] = Registry("things")
    registry.add(key="one", value=int)
    assert registry.get("one") is int
    assert "one" in registry


def test_a_lazy_value_is_imported_when_it_is_asked_for() -> None:
    registry: Registry[type] = Registry("things")
    registry.add(key="path", value="pathlib:Path")
    assert registry.keys() == ["path"]
    assert registry.get("path") is Path


def test_an_unknown_key_names_the_nearest() -> None:
    registry: Registry[type] = Registry("things")
    registry.add(key="completion", value=int)
    with pytest.raises(UnknownKeyError, match="did you mean 'completion'"):
        registry.get("completon")


def test_a_taken_key_is_refused_unless_overridden() -> None:
    registry: Registry[type] = Registry("things")
    registry.add(key="one", value=int)
    with pytest.raises(ValueError, match="has the key 'one' already"):
        registry.add(key="one", value=str)
    registry.add(key="one", value=str, override=True)
    assert registry.get("one") is str


@pytest.mark.parametrize("path", ["no_such_module_here:x", "pathlib:NoSuchName"])
def test_a_broken_lazy_value_is_told_with_its_path(path: str) -> None:
    registry: Registry[type] = Registry("things")
    registry.add(key="broken", value=path)
    with pytest.raises(PluginError, match=path.split(":")[0]):
        registry.get("broken")


@pytest.mark.parametrize("spec", ["no_such_module_here:register", "pathlib", "pathlib:os", "json:loads"])
def test_a_plugin_that_fails_is_named(spec: str) -> None:
    assert [failure.plugin for failure in load_plugins(spec)] == [spec]


@pytest.fixture
def plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path, and registries that forget afterwards what plugins added and what was wrong with them."""
    monkeypatch.syspath_prepend(str(tmp_path))
    known = dict(configs_registry._values)
    yield tmp_path
    configs_registry._values.clear()
    configs_registry._values.update(known)
    note_missing_plugins([])


def test_a_broken_plugin_keeps_no_other_from_loading_and_is_named_where_its_key_is_missing(
    plugin_folder: Path,
) -> None:
    (plugin_folder / "broken_plugin.py").write_text("import a_wheel_that_is_not_there\n")
    (plugin_folder / "exiting_plugin.py").write_text("import sys\nsys.exit('goodbye')\n")
    (plugin_folder / "good_plugin.py").write_text(
        "from trainer_core.config import configs_registry, Config\n"
        "def register():\n    configs_registry.add(key='mine', value=Config)\n"
    )
    failures = load_plugins("broken_plugin:register, exiting_plugin:register, good_plugin:register")
    assert [failure.plugin for failure in failures] == ["broken_plugin:register", "exiting_plugin:register"]
    assert "a_wheel_that_is_not_there" in failures[0].message
    assert "mine" in configs_registry
    with pytest.raises(UnknownKeyError, match=r"'broken_plugin:register' failed: .*a_wheel_that_is_not_there"):
        configs_registry.get("theirs")


def test_a_plugin_named_twice_is_called_once(plugin_folder: Path) -> None:
    (plugin_folder / "twice_plugin.py").write_text(
        "from trainer_core.config import configs_registry, Config\n"
        "def register():\n    configs_registry.add(key='twice', value=Config)\n"
    )
    assert load_plugins("twice_plugin:register,twice_plugin:register") == ()


def test_a_plugin_registers_its_components(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_plugin.py").write_text(
        "from trainer_core.config import configs_registry, Config\n"
        "def register():\n    configs_registry.add(key='mine', value=Config, override=True)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins("my_plugin:register")
    assert "mine" in configs_registry
    configs_registry._values.pop("mine")
