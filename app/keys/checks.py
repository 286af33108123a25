"""What a new key may look like."""

from collections.abc import Sequence

from app.jobs.storable import is_storable_text
from app.keys.errors import InvalidKeyRequest
from app.keys.scopes import EARLIER_SCOPE, KNOWN_SCOPES
from app.keys.views import KeyLimits
from app.projects.views import PROJECT_ID

MAX_OVERLAP_SECONDS = 30 * 86_400.0
MAX_LIFETIME_SECONDS = 100 * 366 * 86_400.0
MAX_REQUESTS_PER_MINUTE = 10_000_000
MAX_UPLOAD_BYTES = 1 << 50


def check_key(
    owner: str, name: str, scopes: Sequence[str], *, expires_in_seconds: float | None, limits: KeyLimits
) -> None:
    """Raises InvalidKeyRequest, naming the field."""
    if not PROJECT_ID.fullmatch(owner):
        raise InvalidKeyRequest("owner must have 1 to 64 letters, digits or . _ @ + -")
    if not 0 < len(name) <= 256 or not is_storable_text(name):
        raise InvalidKeyRequest("name must have 1 to 256 characters")
    _check_scopes(scopes)
    if expires_in_seconds is not None and not 0 < expires_in_seconds <= MAX_LIFETIME_SECONDS:
        raise InvalidKeyRequest("expires_in_seconds must be above 0, and at most 100 years")
    for field, most in (("max_requests_per_minute", MAX_REQUESTS_PER_MINUTE), ("max_upload_bytes", MAX_UPLOAD_BYTES)):
        value: int | None = getattr(limits, field)
        if value is not None and not 1 <= value <= most:
            raise InvalidKeyRequest(f"{field} must lie between 1 and {most}")


def check_overlap(overlap_seconds: float) -> None:
    """Raises InvalidKeyRequest."""
    if not 0 <= overlap_seconds <= MAX_OVERLAP_SECONDS:
        raise InvalidKeyRequest(f"overlap_seconds must lie between 0 and {MAX_OVERLAP_SECONDS:.0f} (30 days)")


def _check_scopes(scopes: Sequence[str]) -> None:
    named = ", ".join(scope for scope in KNOWN_SCOPES if scope != EARLIER_SCOPE)
    for scope in scopes:
        if scope not in KNOWN_SCOPES:
            raise InvalidKeyRequest(f"scopes: {scope[:32]!a} is unknown; known are {named}")
    if not scopes:
        raise InvalidKeyRequest(f"scopes: give at least one of {named}")
