"""The cipher under its earlier address."""

from app.secrets.cipher import SealedSecret, SecretCipher, UnreadableSecret

__all__ = ["SealedSecret", "SecretCipher", "UnreadableSecret"]
