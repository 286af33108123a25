"""What the service of secrets answers: everything but the values."""

from dataclasses import dataclass

from app.secrets.cipher import SealedSecret


@dataclass(frozen=True, slots=True)
class SecretView:
    """A named secret as its project sees it. Times are unix seconds."""

    id: str
    name: str
    created_at: float
    updated_at: float
    """When its value was last given."""


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A named secret's encrypted value, and the scope that it is bound to."""

    scope_id: str
    sealed: SealedSecret
