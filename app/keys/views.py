"""What the service of keys takes and answers."""

from dataclasses import dataclass

from app.keys.scopes import Scope


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Limits of one key. None: the installation's."""

    max_requests_per_minute: int | None = None
    max_upload_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class KeyView:
    """A key without the key itself. Times are unix seconds; `last_used_at` is right to a minute or two."""

    id: str
    owner: str
    name: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    limits: KeyLimits
    replaced_by: str | None
    is_usable: bool
    """False when it is revoked, expired, or has no scope that allows anything, by the database's clock at reading."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: whose jobs and files are seen, and what else the key may do."""

    owner: str
    scopes: frozenset[Scope]
    """With all that they imply."""
    key_id: str
    limits: KeyLimits = KeyLimits()
