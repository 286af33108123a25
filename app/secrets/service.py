"""Named secrets of a project: given once, used by its jobs, never shown again."""

import re
from collections.abc import Sequence

from app.db.session import SessionFactory, snapshot, transaction
from app.secrets import repository
from app.secrets.cipher import build_cipher
from app.secrets.errors import InvalidSecret, SecretNotFound, TooManySecrets
from app.secrets.views import SecretView
from app.settings import Settings

SECRET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MIN_VALUE_CHARS, MAX_VALUE_CHARS = 8, 4096
"""A shorter value would blot out harmless words wherever a job prints them."""
MAX_SECRETS = 100
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")


class SecretService:
    """Secrets are their project's; nobody else sees that they exist, and nobody at all sees a value."""

    def __init__(self, sessions: SessionFactory, settings: Settings) -> None:
        self._sessions = sessions
        self._cipher = build_cipher(settings, "named-secrets")

    def put(self, owner: str, name: str, value: str) -> SecretView:
        """Creates the secret or gives it a new value: jobs submitted before keep the one that they were given.

        Raises InvalidSecret, TooManySecrets.
        """
        if not SECRET_NAME.fullmatch(name):
            raise InvalidSecret("name must have 1 to 64 letters, digits or . _ - and begin with no mark", param="name")
        if not (MIN_VALUE_CHARS <= len(value) <= MAX_VALUE_CHARS and _VALUE.fullmatch(value)):
            message = (
                f"value must have {MIN_VALUE_CHARS} to {MAX_VALUE_CHARS} printable ASCII characters and no white space"
                " at its ends"
            )
            raise InvalidSecret(message, param="value")
        sealed = self._cipher.seal(repository.bind_scope(owner, name), field=repository.VALUE_FIELD, value=value)
        with transaction(self._sessions) as connection:
            is_new = repository.find_secret(connection, name, owner=owner) is None
            if is_new and repository.count_secrets(connection, owner=owner) >= MAX_SECRETS:
                raise TooManySecrets(f"a project may have {MAX_SECRETS} secrets; delete one that is not used")
            return repository.put_secret(connection, owner=owner, name=name, sealed=sealed)

    def get(self, owner: str, name: str) -> SecretView:
        """The secret without its value. Raises SecretNotFound."""
        with snapshot(self._sessions) as connection:
            secret = repository.find_secret(connection, name, owner=owner) if SECRET_NAME.fullmatch(name) else None
        if secret is None:
            raise SecretNotFound(name)
        return secret

    def list(self, owner: str, *, after: str | None, limit: int) -> tuple[Sequence[SecretView], bool]:
        """Secrets by name, from the next one after the name `after`, and whether more follow."""
        known = after if after is None or SECRET_NAME.fullmatch(after) else ""
        with snapshot(self._sessions) as connection:
            found = repository.list_secrets(connection, owner=owner, after=known, limit=limit + 1)
        return found[:limit], len(found) > limit

    def delete(self, owner: str, name: str) -> None:
        """Removes the secret; jobs that were submitted with it keep their copy. Raises SecretNotFound."""
        is_gone = False
        if SECRET_NAME.fullmatch(name):
            with transaction(self._sessions) as connection:
                is_gone = repository.delete_secret(connection, name, owner=owner)
        if not is_gone:
            raise SecretNotFound(name)
