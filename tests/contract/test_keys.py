"""API keys: made, checked, expired, revoked."""

from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.db.clock import db_now
from app.db.models import api_keys
from app.db.session import snapshot, transaction
from app.keys.scopes import Scope
from app.keys.service import InvalidKeyRequest, KeyNotFound, KeyService, Principal
from app.settings import Settings
from tests.support.installation import CoreInstallation


def test_key_names_its_owner_and_lies_nowhere_in_plain_text(core: CoreInstallation) -> None:
    key, plaintext = core.keys.create("ann", "laptop", ("admin",))
    assert core.keys.authenticate(plaintext) == Principal("ann", frozenset(Scope), key.id)
    with snapshot(core.sessions) as connection:
        [row] = connection.execute(select(api_keys)).all()
    assert plaintext not in str(row)
    assert [known.name for known in core.keys.list()] == ["laptop"]
    assert core.keys.list()[0].last_used_at is not None


@pytest.mark.parametrize("plaintext", ["", "fsk_", "fsk_unknown", "x\0y", "\ud800"])
def test_other_texts_are_nobody(core: CoreInstallation, plaintext: str) -> None:
    core.keys.create("ann", "laptop")
    assert core.keys.authenticate(plaintext) is None


def test_revoked_key_is_worthless_here_at_once(core: CoreInstallation) -> None:
    key, plaintext = core.keys.create("ann", "laptop")
    assert core.keys.authenticate(plaintext) is not None
    assert core.keys.revoke(key.id).revoked_at is not None
    assert core.keys.authenticate(plaintext) is None


def test_expired_key_is_worthless(core: CoreInstallation) -> None:
    _, plaintext = core.keys.create("ann", "laptop", expires_in_seconds=3600)
    with transaction(core.sessions) as connection:
        connection.execute(update(api_keys).values(expires_at=db_now() - 1))
    assert core.keys.authenticate(plaintext) is None


@pytest.mark.parametrize("key_id", ["", "key-1", "key-" + "0" * 26, "\0"])
def test_key_that_is_not_there_cannot_be_revoked(core: CoreInstallation, key_id: str) -> None:
    with pytest.raises(KeyNotFound):
        core.keys.revoke(key_id)


@pytest.mark.parametrize(
    ("owner", "name", "seconds"), [("", "n", None), ("a b", "n", None), ("a", "", None), ("a", "n", 0)]
)
def test_impossible_keys_are_refused(core: CoreInstallation, owner: str, name: str, seconds: float | None) -> None:
    with pytest.raises(InvalidKeyRequest):
        core.keys.create(owner, name, ("read",), seconds)


def test_another_secret_key_opens_none_of_the_keys(core: CoreInstallation, tmp_path: Path) -> None:
    _, plaintext = core.keys.create("ann", "laptop")
    other = KeyService(core.sessions, Settings(data_dir=tmp_path / "other"))
    assert other.authenticate(plaintext) is None
