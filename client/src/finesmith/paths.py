"""Paths of the API with ids in them."""

import re
from urllib.parse import quote

from finesmith.errors import ConfigurationError


def api_path(*parts: str) -> str:
    """`/v1/…` from fixed words and ids. Raises ConfigurationError for a part that is no id, so that none can lead to
    another call."""
    for part in parts:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", part):
            raise ConfigurationError(f"{part!r} is not an id.")
    return "/v1/" + "/".join(parts)


def artifact_path(job_id: str, path: str) -> str:
    """`/v1/jobs/<id>/artifacts/<path>` with every folder name quoted. The path must be checked before."""
    return api_path("jobs", job_id, "artifacts") + "/" + quote(path, safe="/")
