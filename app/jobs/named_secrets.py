"""Secrets that a config names instead of giving them: `secret:<name>` in a write-only field."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from pydantic import JsonValue
from sqlalchemy import Connection

from app.jobs.errors import InvalidSubmission, Problem
from app.secrets import repository
from app.secrets.cipher import SealedSecret, SecretCipher, UnreadableSecret
from app.secrets.views import StoredSecret
from trainer_core.config import SECRET_FIELDS

SECRET_PREFIX = "secret:"
_MAX_SHOWN_NAMES = 20


@dataclass(frozen=True, slots=True)
class GivenSecrets:
    """The secrets of a config by field: texts that it holds, and encrypted values of the names that it holds."""

    texts: Mapping[str, str] = field(repr=False)
    named: Mapping[str, StoredSecret]
    problems: tuple[Problem, ...]


def is_reference(value: object) -> bool:
    """True for `secret:<name>`."""
    return isinstance(value, str) and value.startswith(SECRET_PREFIX)


def find_given_secrets(connection: Connection, owner: str, texts: Mapping[str, str]) -> GivenSecrets:
    """Looks up the owner's secrets that the fields name; an unknown name is a problem of its field."""
    names = {name: text.removeprefix(SECRET_PREFIX) for name, text in texts.items() if is_reference(text)}
    plain = {name: text for name, text in texts.items() if name not in names}
    if not names:
        return GivenSecrets(plain, {}, ())
    values = repository.find_values(connection, owner=owner, names=sorted(set(names.values())))
    named = {name: values[secret] for name, secret in names.items() if secret in values}
    unknown = {name: secret for name, secret in names.items() if secret not in values}
    known = repository.list_names(connection, owner=owner) if unknown else []
    return GivenSecrets(plain, named, tuple(_tell_unknown(unknown, known)))


def seal_given(
    cipher: SecretCipher, given: GivenSecrets, *, scope_id: str, named_cipher: SecretCipher
) -> tuple[SealedSecret, ...]:
    """Encrypts all of a config's secrets for the job or preview `scope_id`, which has a copy of its own from then on.

    Raises InvalidSubmission for a named one that the installation's secret keys do not open.
    """
    texts = dict(given.texts)
    for name, stored in given.named.items():
        try:
            texts[name] = named_cipher.open(stored.scope_id, stored.sealed)
        except UnreadableSecret as error:
            message = f"{name}: the secret was encrypted with a key that is no longer configured; give its value again"
            raise InvalidSubmission([Problem(message, f"config.{name}", "secret_unreadable")]) from error
    return tuple(cipher.seal(scope_id, field=name, value=text) for name, text in texts.items())


def find_present_values(connection: Connection, owner: str, config: Mapping[str, JsonValue]) -> GivenSecrets:
    """The present values of the secrets that a stored config names; those that are gone since are left out."""
    named = {name: str(config[name]) for name in SECRET_FIELDS if is_reference(config.get(name))}
    return find_given_secrets(connection, owner, named)


def _tell_unknown(unknown: Mapping[str, str], known: Sequence[str]) -> Iterator[Problem]:
    for name, secret in unknown.items():
        near = get_close_matches(secret, known, n=_MAX_SHOWN_NAMES, cutoff=0.6)
        shown = [*near, *(other for other in known if other not in near)][:_MAX_SHOWN_NAMES]
        instead = f"known are {', '.join(shown)}" if shown else "PUT /v1/secrets/<name> makes one"
        message = f"{name}: there is no secret {secret[:64]!a} in this project; {instead}"
        yield Problem(message, f"config.{name}", "unknown_secret")
