"""API keys: made, checked, rotated and revoked; only a keyed digest of each is stored."""

import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Connection, Row

from app.db.session import SessionFactory, snapshot, transaction
from app.ids import is_id, new_id
from app.keys import repository
from app.keys.checks import check_key, check_overlap
from app.keys.errors import InvalidKeyRequest, KeyNotFound, KeyNotRotatable
from app.keys.scopes import Scope, grant
from app.keys.views import KeyLimits, KeyView, Principal
from app.projects.service import ensure_project
from app.secret_key import derive_key, load_secret_keys
from app.settings import Settings

__all__ = ["InvalidKeyRequest", "KeyNotFound", "KeyNotRotatable", "KeyService", "KeyView", "Principal"]

KEY_PREFIX = "fsk_"
CACHE_SECONDS = 30.0
_KEY = re.compile(rf"{KEY_PREFIX}[A-Za-z0-9_-]{{43}}")
_MAX_CACHED = 10_000
_NOTE_USE_SECONDS = 60.0
_NUM_RANDOM_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Cached:
    principal: Principal
    until: float


class KeyService:
    """Keys are high-entropy random text, so a fast keyed digest is enough and no slow hash is needed."""

    def __init__(
        self, sessions: SessionFactory, settings: Settings, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` in seconds: how old a remembered answer is."""
        self._sessions = sessions
        self._clock = clock
        self._digest_keys = [derive_key(key, "api-keys") for key in load_secret_keys(settings)]
        self._cache: dict[str, _Cached] = {}

    def create(
        self,
        owner: str,
        name: str,
        scopes: Sequence[str] = (Scope.SUBMIT.value,),
        expires_in_seconds: float | None = None,
        *,
        limits: KeyLimits | None = None,
    ) -> tuple[KeyView, str]:
        """A new key and its plaintext, which is not stored and cannot be shown again; makes the owner's project if
        there is none. `limits` None: the installation's. Raises InvalidKeyRequest."""
        limits = limits or KeyLimits()
        check_key(owner, name, scopes, expires_in_seconds=expires_in_seconds, limits=limits)
        values = {"owner": owner, "name": name, "scopes": sorted(set(scopes)), **_dump_limits(limits)}
        with transaction(self._sessions) as connection:
            ensure_project(connection, owner)
            row, plaintext = self._insert(connection, values, expires_in_seconds=expires_in_seconds)
        return _as_view(row), plaintext

    def rotate(self, key_id: str, *, overlap_seconds: float = 0.0) -> tuple[KeyView, str]:
        """A new key in the place of this one, which ends after the overlap: same owner, name, scopes and limits, and
        the same lifetime, from now on.

        Returns it and its plaintext. Raises KeyNotFound, KeyNotRotatable, InvalidKeyRequest.
        """
        check_overlap(overlap_seconds)
        with transaction(self._sessions) as connection:
            old = repository.lock_key(connection, key_id) if is_id(key_id, "key") else None
            if old is None:
                raise KeyNotFound(f"no key {key_id!a}", param="key_id")
            if old.replaced_by is not None:
                raise KeyNotRotatable(f"key {key_id} was replaced by {old.replaced_by} already", param="key_id")
            if not _is_usable(old):
                raise KeyNotRotatable(f"key {key_id} is revoked or expired; make a new one", param="key_id")
            values = {name: getattr(old, name) for name in ("owner", "name", "scopes", *_dump_limits(KeyLimits()))}
            lifetime = None if old.expires_at is None else old.expires_at - old.created_at
            new, plaintext = self._insert(connection, values, expires_in_seconds=lifetime)
            repository.replace_key(connection, key_id, by=new.id, overlap_seconds=overlap_seconds)
        self._forget(key_id)
        return _as_view(new), plaintext

    def authenticate(self, plaintext: str) -> Principal | None:
        """Who the key belongs to; None for an unknown, expired or revoked one. A yes is at most 30 s old."""
        cached = self.find_cached(plaintext)
        if cached is not None:
            return cached
        if not is_key(plaintext):
            return None
        digests = self._digests(plaintext)
        with snapshot(self._sessions) as connection:
            row = repository.find_key(connection, digests=digests)
        if row is None or not _is_usable(row):
            self._cache.pop(digests[0], None)
            return None
        if row.digest != digests[0] or row.last_used_at is None or row.now - row.last_used_at > _NOTE_USE_SECONDS:
            with transaction(self._sessions) as connection:
                repository.note_use(connection, row.id, digest=digests[0])
        principal = Principal(row.owner, grant(row.scopes), row.id, _parse_limits(row))
        valid_seconds = CACHE_SECONDS if row.expires_at is None else min(CACHE_SECONDS, row.expires_at - row.now)
        if len(self._cache) >= _MAX_CACHED:
            self._cache.clear()
        self._cache[digests[0]] = _Cached(principal, until=self._clock() + valid_seconds)
        return principal

    def find_cached(self, plaintext: str) -> Principal | None:
        """Who the key belongs to, if that was looked up less than 30 s ago; never blocks, so safe in an event loop."""
        cached = self._cache.get(_digest(self._digest_keys[0], plaintext))
        return cached.principal if cached is not None and self._clock() < cached.until else None

    def revoke(self, key_id: str) -> KeyView:
        """Makes the key worthless: here at once, in other processes within 30 s. Raises KeyNotFound."""
        row = None
        if is_id(key_id, "key"):
            with transaction(self._sessions) as connection:
                row = repository.revoke_key(connection, key_id)
        if row is None:
            raise KeyNotFound(f"no key {key_id!a}", param="key_id")
        self._forget(key_id)
        return _as_view(row)

    def _insert(
        self, connection: Connection, values: dict[str, Any], *, expires_in_seconds: float | None
    ) -> tuple[Row[Any], str]:
        plaintext = KEY_PREFIX + secrets.token_urlsafe(_NUM_RANDOM_BYTES)
        row = repository.insert_key(
            connection,
            {**values, "id": new_id("key"), "digest": self._digests(plaintext)[0]},
            expires_in_seconds=expires_in_seconds,
        )
        return row, plaintext

    def _forget(self, key_id: str) -> None:
        for digest, cached in tuple(self._cache.items()):
            if cached.principal.key_id == key_id:
                self._cache.pop(digest, None)

    def _digests(self, plaintext: str) -> list[str]:
        """The digest under the present secret key, then those under the previous ones."""
        return [_digest(key, plaintext) for key in self._digest_keys]

    def list(self) -> Sequence[KeyView]:
        """All keys, revoked ones too, oldest first."""
        with snapshot(self._sessions) as connection:
            return [_as_view(row) for row in repository.list_keys(connection)]


def is_key(text: str) -> bool:
    """True when the text has the shape of a key; one that has not needs no look into the database."""
    return _KEY.fullmatch(text) is not None


def _digest(key: bytes, plaintext: str) -> str:
    return hmac.new(key, plaintext.encode("utf-8", "surrogatepass"), sha256).hexdigest()


def _is_usable(row: Row[Any]) -> bool:
    return row.revoked_at is None and (row.expires_at is None or row.expires_at > row.now)


def _dump_limits(limits: KeyLimits) -> dict[str, int | None]:
    return {
        "max_requests_per_minute": limits.max_requests_per_minute,
        "max_upload_bytes": limits.max_upload_bytes,
    }


def _parse_limits(row: Row[Any]) -> KeyLimits:
    return KeyLimits(row.max_requests_per_minute, row.max_upload_bytes)


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
        limits=_parse_limits(row),
        replaced_by=row.replaced_by,
        is_usable=_is_usable(row) and bool(grant(row.scopes)),
    )
