"""Removal of secrets and of the host's paths from what leaves a step: its output, its events, its error."""

import re
from collections.abc import Mapping, Sequence

_REPLACEMENT = b"[redacted]"
_KNOWN_PATTERNS = (rb"hf_[A-Za-z0-9]{30,}", rb"wandb_v1_[A-Za-z0-9_]{30,}")
"""What tokens look like: one may reach the output from a user's own environment."""
_HEX_KEY = re.compile(rb"\b[0-9a-f]{40}\b")
_KEY_WORDS = re.compile(rb"(?i:wandb|api[ _-]?key|netrc|password|authorization)[^\n]*\Z")
_MAX_WORD_DISTANCE = 64
"""40 hexadecimal digits are a key of Weights & Biases shortly behind a word that says so; elsewhere a commit."""


class Redactor:
    """Replaces the given secrets, and what looks like a Hub token, by `[redacted]`, and paths by their public names."""

    def __init__(self, secrets: Sequence[str] = (), *, public_names: Mapping[str, str] | None = None) -> None:
        """`public_names`: what users call a path of this host, by the path."""
        self._secrets = tuple(secret.encode() for secret in secrets if secret)
        self._names: dict[bytes, bytes] = {}
        self.name_paths(public_names or {})

    def name_paths(self, public_names: Mapping[str, str]) -> None:
        """Adds what users call further paths of this host, by the path."""
        self._names |= {path.encode(): name.encode() for path, name in public_names.items() if path}
        exact = sorted({*self._names, *self._secrets}, key=len, reverse=True)
        self._pattern = re.compile(b"|".join([*(re.escape(secret) for secret in exact), *_KNOWN_PATTERNS]))
        self.max_secret_bytes = max([256, *(len(secret) for secret in exact)])
        """How many bytes a secret may take: what a reader of pieces has to hold back."""

    def redact(self, content: bytes) -> bytes:
        """Returns the bytes without secrets and paths."""
        clean = self._pattern.sub(lambda found: self._names.get(found.group(), _REPLACEMENT), content)
        return _HEX_KEY.sub(_replace_key, clean)

    def redact_text(self, text: str) -> str:
        """Returns the text without secrets and paths."""
        return self.redact(text.encode(errors="replace")).decode()


def _replace_key(found: re.Match[bytes]) -> bytes:
    before = found.string[max(0, found.start() - _MAX_WORD_DISTANCE) : found.start()]
    return _REPLACEMENT if _KEY_WORDS.search(before) else found[0]
