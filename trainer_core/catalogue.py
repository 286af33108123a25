"""What this installation can do: every registry's keys and every Config's JSON Schema, plugins included.

A worker runs `python -m trainer_core.catalogue` in a child process, because a plugin may import anything, and
announces what it prints.
"""

import argparse
import contextlib
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trainer_core.config import build_config_schema, configs_registry
from trainer_core.plugins import PluginFailure, load_plugins
from trainer_core.registry import Registry
from trainer_core.types import JsonValue

COMPONENTS: tuple[str, ...] = ("datasets", "collators", "trainers", "experiments", "quantizers")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Keys by registry, JSON Schemas by Config key, and the plugins that failed."""

    registries: dict[str, list[str]]
    configs: dict[str, JsonValue]
    plugin_errors: list[PluginFailure]


def build_catalogue(plugins: str | None = None) -> Catalogue:
    """Loads the plugins and reads the registries; what fails is told and left out."""
    failures = list(load_plugins(plugins))
    registries = {component: _get_registry(component).keys() for component in COMPONENTS}
    configs: dict[str, JsonValue] = {}
    for key in configs_registry.keys():  # noqa: SIM118
        try:
            configs[key] = build_config_schema(configs_registry.get(key))
        # The class of a plugin, and the types in it: importing them and describing them runs a user's code.
        except Exception as error:  # noqa: BLE001
            failures.append(PluginFailure(f"configs_registry {key!r}", f"{type(error).__name__}: {error}"))
    registries["configs"] = sorted(configs)
    return Catalogue(registries=registries, configs=configs, plugin_errors=failures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the catalogue as one JSON line, the last one on stdout; what plugins print goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m trainer_core.catalogue", description=__doc__)
    parser.add_argument("--plugins", help="comma-separated module:function, as in FINESMITH_PLUGINS")
    options = parser.parse_args(arguments)
    with contextlib.redirect_stdout(sys.stderr):
        catalogue = build_catalogue(options.plugins)
    sys.stdout.write("\n" + json.dumps(asdict(catalogue)) + "\n")
    return 0


def _get_registry(component: str) -> Registry[object]:
    registry: Registry[object] = getattr(
        importlib.import_module(f"trainer_core.{component}.registry"), f"{component}_registry"
    )
    return registry


if __name__ == "__main__":
    sys.exit(main())
