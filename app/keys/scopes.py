"""What a key may do: its scopes, and which of them each call needs.

A call that is declared nowhere here is refused, whatever the key.
"""

from collections.abc import Iterable
from enum import StrEnum


class Scope(StrEnum):
    """`submit` implies `read`; `admin` implies both, for the jobs of its own project."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"


EARLIER_SCOPE = "jobs"
"""The one scope besides `admin` that keys had before: it counts as `submit`."""
KNOWN_SCOPES = (*(scope.value for scope in Scope), EARLIER_SCOPE)
_IMPLIED = {
    Scope.READ.value: frozenset({Scope.READ}),
    Scope.SUBMIT.value: frozenset({Scope.READ, Scope.SUBMIT}),
    EARLIER_SCOPE: frozenset({Scope.READ, Scope.SUBMIT}),
    Scope.ADMIN.value: frozenset(Scope),
}

_READING_METHODS = frozenset({"GET", "HEAD"})
_ADMIN_AREAS = frozenset({"/metrics", "/v1/keys", "/v1/projects"})
_OWNER_AREAS = frozenset(
    {
        "/v1/jobs",
        "/v1/files",
        "/v1/previews",
        "/v1/secrets",
        "/v1/webhooks",
        "/v1/registries",
        "/v1/config",
        "/v1/workers",
        "/v1/fine_tuning",
        "/v1/models",
    }
)
"""Where reading needs `read` and every change needs `submit`."""
_CHANGES_NOTHING = frozenset({("POST", "/v1/jobs/validate")})


def grant(scopes: Iterable[str]) -> frozenset[Scope]:
    """Everything that the scopes of a key allow; words that no version knows allow nothing."""
    return frozenset[Scope]().union(*(_IMPLIED.get(scope, frozenset()) for scope in scopes))


def find_needed_scope(method: str, path: str) -> Scope | None:
    """The scope that a call needs; None for one that nobody declared."""
    # The first two parts of the path: every request asks twice.
    area = "/".join(path.split("/", 3)[:3])
    if area in _ADMIN_AREAS:
        return Scope.ADMIN
    if area not in _OWNER_AREAS:
        return None
    return Scope.READ if method in _READING_METHODS or (method, path) in _CHANGES_NOTHING else Scope.SUBMIT
