"""The installation's secret key, and the keys derived from it."""

import base64
import binascii
import hashlib
import hmac
import logging
import os
import secrets
import stat
from pathlib import Path
from typing import Literal

from app.settings import Settings

KEY_BYTES = 32
Purpose = Literal["job-secrets", "preview-secrets", "named-secrets", "webhook-secrets", "api-keys"]

logger = logging.getLogger("finesmith.secret_key")


class BadSecretKey(Exception):
    """A configured secret key is not 32 bytes in base64, or its file is not ours alone; fatal at start."""


def load_secret_key(settings: Settings) -> bytes:
    """The 32 bytes of FINESMITH_SECRET_KEY, else of `<data_dir>/secret_key`, which is made (0600) when missing.

    Raises BadSecretKey.
    """
    text = settings.secret_key.get_secret_value()
    if text:
        return _decode(text, source="FINESMITH_SECRET_KEY")
    path = settings.data_dir / "secret_key"
    if not path.exists():
        _create_key_file(path)
    _make_private(path)
    return _decode(path.read_text(), source=str(path))


def load_secret_keys(settings: Settings) -> tuple[bytes, ...]:
    """The present key, then those of FINESMITH_PREVIOUS_SECRET_KEYS. Raises BadSecretKey."""
    texts = settings.previous_secret_keys.get_secret_value().split(",")
    previous = [_decode(text, source="FINESMITH_PREVIOUS_SECRET_KEYS") for text in texts if text.strip()]
    return (load_secret_key(settings), *previous)


def derive_key(secret_key: bytes, purpose: Purpose) -> bytes:
    """A key for one purpose, so that no two uses share one."""
    return hmac.new(secret_key, purpose.encode(), hashlib.sha256).digest()


def _make_private(path: Path) -> None:
    """Takes from others what they may do with the key file, and says so: they may have read it.

    Not refused, because a volume's mount may give a group its rights back at each start. Raises BadSecretKey where
    the file is not ours to change.
    """
    facts = path.stat()
    if not facts.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return
    try:
        path.chmod(0o600)
    except OSError as error:
        message = f"{path} can be read by others and belongs to somebody else: give it to this user, with mode 0600"
        raise BadSecretKey(message) from error
    logger.warning("%s could be read by others: its mode is 0600 now. Change the key if somebody may have", path)


def _decode(text: str, *, source: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY_BYTES:
        raise BadSecretKey(f"{source} must hold {KEY_BYTES} bytes in base64")
    return key


def _create_key_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(secrets.token_bytes(KEY_BYTES)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        # A link fails where a rename would replace: of two processes starting together both keep the first one's key.
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()
