"""Encryption of a job's tokens at rest: AES-256-GCM, bound to the job and the field."""

import hashlib
import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

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
    """Seals and opens secrets with one 32-byte key."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._key_id = hashlib.sha256(key).hexdigest()[:16]

    def seal(self, job_id: str, *, field: str, value: str) -> SealedSecret:
        """Encrypts `value`; it opens only for the same job and field."""
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = self._aead.encrypt(nonce, value.encode(), _bind(job_id, field))
        return SealedSecret(field=field, key_id=self._key_id, nonce=nonce, ciphertext=ciphertext)

    def open(self, job_id: str, sealed: SealedSecret) -> str:
        """The secret's text. Raises UnreadableSecret."""
        if sealed.key_id != self._key_id:
            raise UnreadableSecret(f"{sealed.field} was encrypted with another secret key")
        try:
            return self._aead.decrypt(sealed.nonce, sealed.ciphertext, _bind(job_id, sealed.field)).decode()
        except InvalidTag as error:
            raise UnreadableSecret(f"{sealed.field} does not belong to {job_id} or was changed") from error


def _bind(job_id: str, field: str) -> bytes:
    return f"{job_id}/{field}".encode()
