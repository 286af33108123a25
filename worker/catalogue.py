"""The worker's catalogue, made by a child process: a plugin may import anything, and this process must stay light."""

import json
import logging
import os
import subprocess
import sys

from app.jobs.catalogue import Catalogue

logger = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 300.0
"""With a cold disk cache importing torch alone took over 30 s."""


def load_catalogue(plugins: str | None) -> Catalogue | None:
    """Returns what this host can do, plugins included; None, with the reason logged, when a plugin fails."""
    command = [sys.executable, "-m", "trainer_core.catalogue"]
    if plugins:
        command += ["--plugins", plugins]
    try:
        # A plugin needs no GPU to be listed, and must not take memory of one.
        environ = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_SECONDS, check=True, env=environ
        )
        fields = json.loads(done.stdout.splitlines()[-1])
        registries = {name: tuple(keys) for name, keys in fields["registries"].items()}
        return Catalogue(registries=registries, configs=fields["configs"])
    except subprocess.CalledProcessError as error:
        logger.error("the plugins cannot be loaded: %s", error.stderr.decode(errors="replace").strip())
    except (subprocess.TimeoutExpired, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        logger.error("no catalogue: %s: %s", type(error).__name__, error)
    return None
