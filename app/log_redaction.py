"""Keeps secrets out of log lines: by what they look like, by the field they stand in, and those of the running job."""

import json
import re
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

REPLACEMENT = "[redacted]"
_SECRET_FIELDS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "password", "secret", "token", "api_key", "secret_key"}
)
_PATTERN = re.compile(
    # API keys, Hub tokens and webhook secrets, wherever they stand.
    r"\b(?:(?:fsk_|whsec_)[A-Za-z0-9_+/=-]{8,}|hf_[A-Za-z0-9]{16,})"
    # The credentials of a header, however it was written down; "basic" alone is a word of every day.
    r"|(?i:(?P<kept>authorization[^A-Za-z0-9]{1,8}(?:bearer|basic|token) +|\bbearer +(?=\S{8})))[^\s\"\\,;&]+"
    # The password of a URL, as a driver puts it into its errors.
    r"|(?<=://)[^\s/\"\\@:]*:[^\s/\"\\@]+(?=@)"
)
_HINTS = ("fsk_", "hf_", "whsec_", "authorization", "bearer ", "://")
"""Without one of these the pattern finds nothing: looking for them takes a tenth of its time."""
_SHORTEST_SECRET = 6
"""Something shorter would take away half of the text."""

_job_secrets: ContextVar[tuple[str, ...]] = ContextVar("finesmith_job_secrets", default=())


@contextmanager
def hide_secrets(secrets: Iterable[str]) -> Iterator[None]:
    """Keeps these texts out of every line that is logged meanwhile in this context."""
    # As they look within a JSON string: that is where they are searched for.
    hidden = sorted((json.dumps(secret)[1:-1] for secret in secrets if len(secret) >= _SHORTEST_SECRET), key=len)
    reset = _job_secrets.set(tuple(reversed(hidden)))
    try:
        yield
    finally:
        _job_secrets.reset(reset)


def redact_line(line: str) -> str:
    """Returns the rendered line without secrets; JSON stays JSON."""
    for secret in _job_secrets.get():
        line = line.replace(secret, REPLACEMENT)
    lowered = line.lower()
    if not any(hint in lowered for hint in _HINTS):
        return line
    return _PATTERN.sub(lambda found: (found["kept"] or "") + REPLACEMENT, line)


def drop_secret_fields(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Processor: a field that is named as a secret loses its value, whatever that looks like."""
    for name in event:
        if name.lower() in _SECRET_FIELDS:
            event[name] = REPLACEMENT
    return event
