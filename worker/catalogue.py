"""The worker's catalogue, made by a child process: a plugin may import anything, and this process must stay light."""

import json
import logging
import os
import subprocess
import sys
from dataclasses import dataclass

from app.jobs.catalogue import Catalogue, PluginError

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 300.0
"""With a cold disk cache importing torch alone took over 30 s."""


@dataclass(frozen=True, slots=True)
class LoadedCatalogue:
    """What this host can do, and which plugins failed. `catalogue` None: only what is built in is known to work."""

    catalogue: Catalogue | None
    plugin_errors: tuple[PluginError, ...] = ()


def load_catalogue(plugins: str | None) -> LoadedCatalogue:
    """Returns what this host can do, plugins included; those that fail are told, and logged, and left out."""
    command = [sys.executable, "-m", "trainer_core.catalogue"]
    if plugins:
        command += ["--plugins", plugins]
    try:
        # A plugin needs no GPU to be listed, and must not take memory of one.
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_SECONDS, check=True, env=environ
        )
        loaded = _parse(done.stdout.splitlines()[-1])
    except subprocess.CalledProcessError as error:
        logger.error("the plugins cannot be loaded: %s", error.stderr.decode(errors="replace").strip())
        return _blame_all(plugins, f"the process that loads the plugins ended with status {error.returncode}")
    except subprocess.TimeoutExpired:
        return _blame_all(plugins, f"loading the plugins took longer than {_TIMEOUT_SECONDS:.0f} s")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return _blame_all(plugins, f"the plugins cannot be listed: {type(error).__name__}: {error}")
    for failed in loaded.plugin_errors:
        logger.error("the plugin %r failed: %s", failed.plugin, failed.message)
    return loaded


def _parse(line: bytes) -> LoadedCatalogue:
    fields = json.loads(line)
    registries = {name: tuple(keys) for name, keys in fields["registries"].items()}
    failed = tuple(PluginError(str(error["plugin"]), str(error["message"])) for error in fields["plugin_errors"])
    return LoadedCatalogue(Catalogue(registries=registries, configs=fields["configs"]), failed)


def _blame_all(plugins: str | None, message: str) -> LoadedCatalogue:
    """Which of them did it cannot be known: one that ends or blocks its process takes the others along."""
    logger.error("%s", message)
    return LoadedCatalogue(None, (PluginError(plugins or "entry points", message),))
