"""Secrets and signatures as Standard Webhooks (https://www.standardwebhooks.com) has them."""

import base64
import hmac
import secrets
from dataclasses import dataclass
from hashlib import sha256

SECRET_PREFIX = "whsec_"
ROTATION_SECONDS = 24 * 3600.0
"""How long messages are signed with the old secret as well, so that a receiver can change to the new one in peace."""
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True, repr=False)
class SigningSecrets:
    """The secret of a webhook, and the one before it until `previous_until` (unix seconds)."""

    current: str
    previous: str | None = None
    previous_until: float = 0.0

    def rotate(self, *, now: float) -> "SigningSecrets":
        """A new secret; the old one goes on beside it for a day."""
        return SigningSecrets(make_secret(), previous=self.current, previous_until=now + ROTATION_SECONDS)

    def dump(self) -> str:
        """As one text, to be encrypted."""
        return self.current if self.previous is None else f"{self.current} {self.previous} {self.previous_until!r}"

    @classmethod
    def parse(cls, text: str) -> "SigningSecrets":
        """What `dump` made."""
        current, *rest = text.split(" ")
        return cls(current, previous=rest[0], previous_until=float(rest[1])) if rest else cls(current)

    def sign(self, message_id: str, *, timestamp: int, body: str, now: float) -> str:
        """The header `webhook-signature`: one signature a secret that is valid at `now`, the current one first."""
        signatures = [sign(self.current, message_id, timestamp=timestamp, body=body)]
        if self.previous is not None and now < self.previous_until:
            signatures.append(sign(self.previous, message_id, timestamp=timestamp, body=body))
        return " ".join(signatures)


def make_secret() -> str:
    """A new secret."""
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


def sign(secret: str, message_id: str, *, timestamp: int, body: str) -> str:
    """`v1,` and the HMAC-SHA256 of `id.timestamp.body` in base64."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    content = f"{message_id}.{timestamp}.{body}".encode()
    return "v1," + base64.b64encode(hmac.new(key, content, sha256).digest()).decode()
