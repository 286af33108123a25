"""Where an administrator keeps models that all owners may read."""

import os
from pathlib import Path

SHARED_HUB_CACHE = "FINESMITH_SHARED_HUB_CACHE"
"""Environment variable of a job's processes; the worker's setting of the same name."""


def find_shared_hub_cache() -> Path | None:
    """The folder, in the layout of the hub's own cache; None when there is none."""
    given = os.environ.get(SHARED_HUB_CACHE)
    return Path(given) if given and Path(given).is_dir() else None
