"""Loading of users' extensions: functions that add to the registries before a step runs."""

import functools
import importlib
import importlib.metadata
from collections.abc import Callable

from trainer_core.errors import PluginError

ENTRY_POINT_GROUP = "finesmith.plugins"


def load_plugins(spec: str | None) -> None:
    """Calls every registering function: the installed entry points of `finesmith.plugins`, then those of `spec`.

    `spec` is a comma-separated list of `module:function`, as in FINESMITH_PLUGINS. Raises PluginError naming the
    plugin that failed.
    """
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        _call(entry_point.load, name=entry_point.name)
    for path in (part.strip() for part in (spec or "").split(",")):
        if path:
            _call(functools.partial(_find_function, path), name=path)


def _find_function(path: str) -> Callable[[], object]:
    module_name, separator, attribute = path.partition(":")
    if not separator:
        raise PluginError(f"the plugin {path!r} does not read 'module:function'", param="plugins")
    function = getattr(importlib.import_module(module_name), attribute)
    if not callable(function):
        raise PluginError(f"the plugin {path!r} is not a function", param="plugins")
    return function  # type: ignore[no-any-return]


def _call(load: Callable[[], Callable[[], object]], *, name: str) -> None:
    try:
        load()()
    except PluginError:
        raise
    # A plugin is a user's code: whatever it raises is told as the plugin's failure.
    except Exception as error:
        raise PluginError(f"the plugin {name!r} failed: {type(error).__name__}: {error}", param="plugins") from error
