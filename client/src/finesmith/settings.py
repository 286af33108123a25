"""Where the service is and how to talk to it: the arguments of `Client`, checked and completed from the environment."""

import os
import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from finesmith.errors import ConfigurationError
from finesmith.retry import RetryPolicy

DEFAULT_BASE_URL = "http://127.0.0.1:8000"
DEFAULT_TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class ClientSettings:
    """What a client needs to know. Built by `build_settings`."""

    base_url: str
    """Address of the service without `/v1` and without a slash at its end."""
    api_key: str = field(repr=False)
    """Sent as a bearer token."""
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    """How long each wait for the network may take; not a limit on a whole upload or download."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    """How failed calls are repeated."""


def build_settings(
    base_url: str | None = None,
    *,
    api_key: str | None = None,
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
    retry: RetryPolicy | None = None,
) -> ClientSettings:
    """Completes what is not given from `FINESMITH_BASE_URL` and `FINESMITH_API_KEY`.

    Raises ConfigurationError if there is no key, or if one of the values cannot be meant.
    """
    # Keys are read from files, whose last line ends in a line break.
    key = ((os.environ.get("FINESMITH_API_KEY") if api_key is None else api_key) or "").strip()
    if not key:
        raise ConfigurationError(
            "No API key: pass api_key=… or set FINESMITH_API_KEY. An embedded server keeps its key in the file"
            " `api_key` of its data folder; `finesmith-server keys create` makes another."
        )
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ConfigurationError("The API key holds spaces, line breaks or other characters that no key has.")
    if timeout_seconds <= 0:
        raise ConfigurationError("timeout must be a positive number of seconds.")
    url = os.environ.get("FINESMITH_BASE_URL") if base_url is None else base_url
    return ClientSettings(_clean_url(url or DEFAULT_BASE_URL), key, timeout_seconds, retry or RetryPolicy())


def _clean_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an impossible port or a broken IPv6 address
        is_good = False
    if not is_good or parts.query or parts.fragment:
        raise ConfigurationError(f"base_url must look like http://host:8000, not {url!r}.")
    if parts.username or parts.password:
        raise ConfigurationError("base_url must not hold a user name or password: pass api_key=… instead.")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
