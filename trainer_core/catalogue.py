"""What this installation can do: every registry's keys and every Config's JSON Schema, plugins included.

A worker runs `python -m trainer_core.catalogue` in a child process, because a plugin may import anything, and
announces what it prints.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from trainer_core.config import build_config_schema, configs_registry
from trainer_core.errors import TrainerError
from trainer_core.plugins import load_plugins
from trainer_core.registry import Registry
from trainer_core.types import JsonValue

COMPONENTS: tuple[str, ...] = ("datasets", "collators", "trainers", "experiments", "quantizers")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Keys by registry, and JSON Schemas by Config key."""

    registries: dict[str, list[str]]
    configs: dict[str, JsonValue]


def build_catalogue(plugins: str | None = None) -> Catalogue:
    """Loads the plugins and reads the registries. Raises PluginError."""
    load_plugins(plugins)
    registries = {component: _get_registry(component).keys() for component in COMPONENTS}
    registries["configs"] = configs_registry.keys()
    configs = {key: build_config_schema(configs_registry.get(key)) for key in configs_registry.keys()}  # noqa: SIM118
    return Catalogue(registries=registries, configs=configs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the catalogue as one JSON line; exit status 1 with the reason on stderr when a plugin fails."""
    parser = argparse.ArgumentParser(prog="python -m trainer_core.catalogue", description=__doc__)
    parser.add_argument("--plugins", help="comma-separated module:function, as in FINESMITH_PLUGINS")
    try:
        catalogue = build_catalogue(parser.parse_args(arguments).plugins)
    except TrainerError as error:
        sys.stderr.write(f"{error.code}: {error.message}\n")
        return 1
    sys.stdout.write(json.dumps(asdict(catalogue)) + "\n")
    return 0


def _get_registry(component: str) -> Registry[object]:
    registry: Registry[object] = getattr(
        importlib.import_module(f"trainer_core.{component}.registry"), f"{component}_registry"
    )
    return registry


if __name__ == "__main__":
    sys.exit(main())
