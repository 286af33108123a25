"""API keys: made, checked and revoked; only a keyed digest of each is stored."""

import hmac
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Row

from app.db.session import SessionFactory, snapshot, transaction
from app.ids import is_id, new_id
from app.jobs.errors import JobStoreError
from app.jobs.storable import is_storable_text
from app.keys import repository
from app.secret_key import derive_key, load_secret_key
from app.settings import Settings

KEY_PREFIX = "fsk_"
CACHE_SECONDS = 30.0
_MAX_CACHED = 10_000
_NOTE_USE_SECONDS = 60.0
_NUM_RANDOM_BYTES = 32
_OWNER = re.compile(r"[\w.@+-]{1,64}")
_SCOPE = re.compile(r"[a-z][a-z:_-]{0,31}")


class KeyNotFound(JobStoreError):
    """revoke: there is no such key."""

    code = "key_not_found"


class InvalidKeyRequest(ValueError):
    """create: owner, name, scopes or expiry cannot be; the message says which."""


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


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: whose jobs and files are seen, and what else the key may do."""

    owner: str
    scopes: frozenset[str]
    key_id: str


@dataclass(frozen=True, slots=True)
class _Cached:
    principal: Principal
    until: float


class KeyService:
    """Keys are high-entropy random text, so a fast keyed digest is enough and no slow hash is needed."""

    def __init__(self, sessions: SessionFactory, settings: Settings) -> None:
        self._sessions = sessions
        self._digest_key = derive_key(load_secret_key(settings), "api-keys")
        self._cache: dict[str, _Cached] = {}

    def create(
        self, owner: str, name: str, scopes: Sequence[str] = (), expires_in_seconds: float | None = None
    ) -> tuple[KeyView, str]:
        """A new key and its plaintext, which is not stored and cannot be shown again. Raises InvalidKeyRequest."""
        if not _OWNER.fullmatch(owner):
            raise InvalidKeyRequest("owner must have 1 to 64 letters, digits or . _ @ + -")
        if not 0 < len(name) <= 256 or not is_storable_text(name):
            raise InvalidKeyRequest("name must have 1 to 256 characters")
        if not all(_SCOPE.fullmatch(scope) for scope in scopes):
            raise InvalidKeyRequest("a scope is a lower-case word")
        if expires_in_seconds is not None and not expires_in_seconds > 0:
            raise InvalidKeyRequest("expires_in_seconds must be above 0")
        plaintext = KEY_PREFIX + secrets.token_urlsafe(_NUM_RANDOM_BYTES)
        values = {
            "id": new_id("key"),
            "owner": owner,
            "name": name,
            "digest": self._digest(plaintext),
            "scopes": sorted(set(scopes)),
        }
        with transaction(self._sessions) as connection:
            row = repository.insert_key(connection, values, expires_in_seconds=expires_in_seconds)
        return _as_view(row), plaintext

    def authenticate(self, plaintext: str) -> Principal | None:
        """Who the key belongs to; None for an unknown, expired or revoked one. A yes is at most 30 s old."""
        cached = self.find_cached(plaintext)
        if cached is not None:
            return cached
        digest = self._digest(plaintext)
        with snapshot(self._sessions) as connection:
            row = repository.find_key(connection, digest=digest)
        if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= row.now):
            self._cache.pop(digest, None)
            return None
        if row.last_used_at is None or row.now - row.last_used_at > _NOTE_USE_SECONDS:
            with transaction(self._sessions) as connection:
                repository.note_use(connection, row.id)
        principal = Principal(owner=row.owner, scopes=frozenset(row.scopes), key_id=row.id)
        valid_seconds = CACHE_SECONDS if row.expires_at is None else min(CACHE_SECONDS, row.expires_at - row.now)
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        self._cache[digest] = _Cached(principal, until=time.monotonic() + valid_seconds)
        return principal

    def find_cached(self, plaintext: str) -> Principal | None:
        """Who the key belongs to, if that was looked up less than 30 s ago; never blocks, so safe in an event loop."""
        cached = self._cache.get(self._digest(plaintext))
        return cached.principal if cached is not None and time.monotonic() < cached.until else None

    def list(self) -> Sequence[KeyView]:
        """All keys, revoked ones too, oldest first."""
        with snapshot(self._sessions) as connection:
            return [_as_view(row) for row in repository.list_keys(connection)]

    def revoke(self, key_id: str) -> KeyView:
        """Makes the key worthless: here at once, in other processes within 30 s. Raises KeyNotFound."""
        row = None
        if is_id(key_id, "key"):
            with transaction(self._sessions) as connection:
                row = repository.revoke_key(connection, key_id)
        if row is None:
            raise KeyNotFound(f"no key {key_id!r}", param="key_id")
        for digest, cached in tuple(self._cache.items()):
            if cached.principal.key_id == key_id:
                self._cache.pop(digest, None)
        return _as_view(row)

    def _digest(self, plaintext: str) -> str:
        return hmac.new(self._digest_key, plaintext.encode("utf-8", "surrogatepass"), sha256).hexdigest()


def _as_view(row: Row[Any]) -> KeyView:
    return KeyView(
        id=row.id,
        owner=row.owner,
        name=row.name,
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
