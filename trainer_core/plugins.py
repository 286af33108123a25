"""Loading of users' extensions: functions that add to the registries before a step runs."""

import functools
import importlib
import importlib.metadata
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trainer_core.registry import note_missing_plugins

ENTRY_POINT_GROUP = "finesmith.plugins"
_MAX_MESSAGE_CHARS = 500

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PluginFailure:
    """A plugin that could not be loaded, or raised while it registered."""

    plugin: str
    """The entry point's name, or `module:function`."""
    message: str


def load_plugins(spec: str | None) -> tuple[PluginFailure, ...]:
    """Calls every registering function: the installed entry points of `finesmith.plugins`, then those of `spec`.

    `spec` is a comma-separated list of `module:function`, as in FINESMITH_PLUGINS; one that is an entry point too is
    called once. A plugin that fails keeps no other from being loaded: it is returned and logged, and looking up a key
    that is missing then names it.
    """
    failures = []
    for name, load in _iterate_plugins(spec):
        failure = _call(load, name=name)
        if failure is not None:
            logger.warning("the plugin %r failed: %s", failure.plugin, failure.message)
            failures.append(failure)
    note_missing_plugins([f"the plugin {failure.plugin!r} failed: {failure.message}" for failure in failures])
    return tuple(failures)


def has_plugins(spec: str | None) -> bool:
    """Whether there are any for `load_plugins` to load."""
    return any(True for _ in _iterate_plugins(spec))


def _iterate_plugins(spec: str | None) -> Iterator[tuple[str, Callable[[], Callable[[], object]]]]:
    installed = set()
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        installed.add(entry_point.value.replace(" ", ""))
        yield entry_point.name, entry_point.load
    for path in dict.fromkeys(part.strip() for part in (spec or "").split(",")):
        if path and path not in installed:
            yield path, functools.partial(_find_function, path)


def _find_function(path: str) -> Callable[[], object]:
    module_name, separator, attribute = path.partition(":")
    if not (module_name and separator and attribute):
        raise ValueError("a plugin reads 'module:function'")
    function = getattr(importlib.import_module(module_name), attribute)
    if not callable(function):
        raise TypeError(f"{attribute!r} is not a function")
    return function  # type: ignore[no-any-return]


def _call(load: Callable[[], Callable[[], object]], *, name: str) -> PluginFailure | None:
    try:
        load()()
    # A plugin is a user's code: whatever it raises, an exit included, is told as the plugin's failure.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        text = f"{type(error).__name__}: {error}".strip()
        return PluginFailure(name, text if len(text) <= _MAX_MESSAGE_CHARS else f"{text[:_MAX_MESSAGE_CHARS]}…")
    return None
