"""Encryption of secrets at rest: AES-256-GCM, bound to the row and the field, with the key's id for its rotation."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.secret_key import Purpose, derive_key, load_secret_keys
from app.settings import Settings

_NONCE_BYTES = 12


class UnreadableSecret(Exception):
    """A stored secret cannot be decrypted: the installation's secret key has changed, or the row was tampered with."""


@dataclass(frozen=True, slots=True)
class SealedSecret:
    field: str
    key_id: str
    nonce: bytes
    ciphertext: bytes


class SecretCipher:
    """Seals with one 32-byte key, and opens what that key or one of the `previous` ones has sealed."""

    def __init__(self, key: bytes, *, previous: Sequence[bytes] = ()) -> None:
        self.key_id = _name_key(key)
        self._ciphers = {_name_key(known): AESGCM(known) for known in (key, *previous)}

    def seal(self, scope_id: str, *, field: str, value: str) -> SealedSecret:
        """Encrypts `value`; it opens only for the same row (`scope_id`: a job, a preview …) and field."""
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = self._ciphers[self.key_id].encrypt(nonce, value.encode(), _bind(scope_id, field))
        return SealedSecret(field=field, key_id=self.key_id, nonce=nonce, ciphertext=ciphertext)

    def open(self, scope_id: str, sealed: SealedSecret) -> str:
        """The secret's text. Raises UnreadableSecret."""
        cipher = self._ciphers.get(sealed.key_id)
        if cipher is None:
            raise UnreadableSecret(f"{sealed.field} was encrypted with another secret key")
        try:
            return cipher.decrypt(sealed.nonce, sealed.ciphertext, _bind(scope_id, sealed.field)).decode()
        except InvalidTag as error:
            raise UnreadableSecret(f"{sealed.field} does not belong to {scope_id} or was changed") from error


def build_cipher(settings: Settings, purpose: Purpose) -> SecretCipher:
    """The cipher of one purpose with the installation's present and previous keys. Raises BadSecretKey."""
    present, *previous = (derive_key(key, purpose) for key in load_secret_keys(settings))
    return SecretCipher(present, previous=previous)


def _name_key(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16]


def _bind(scope_id: str, field: str) -> bytes:
    return f"{scope_id}/{field}".encode()
