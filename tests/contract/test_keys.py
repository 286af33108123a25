"""API keys: made, checked, limited, rotated, expired, revoked."""

import base64
from pathlib import Path

import pytest
from sqlalchemy import select, update

from app.db.clock import db_now
from app.db.models import api_keys
from app.db.session import snapshot, transaction
from app.keys.scopes import Scope
from app.keys.service import CACHE_SECONDS, InvalidKeyRequest, KeyNotFound, KeyNotRotatable, KeyService, Principal
from app.keys.views import KeyLimits
from app.projects.service import ProjectService
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


@pytest.mark.parametrize(
    ("scopes", "allowed"),
    [
        (("read",), {Scope.READ}),
        (("submit",), {Scope.READ, Scope.SUBMIT}),
        (("jobs",), {Scope.READ, Scope.SUBMIT}),
        (("admin",), set(Scope)),
        (("read", "submit"), {Scope.READ, Scope.SUBMIT}),
    ],
)
def test_a_scope_implies_those_below_it(core: CoreInstallation, scopes: tuple[str, ...], allowed: set[Scope]) -> None:
    _, plaintext = core.keys.create("ann", "laptop", scopes)
    principal = core.keys.authenticate(plaintext)
    assert principal is not None
    assert principal.scopes == allowed


def test_a_new_key_may_submit(core: CoreInstallation) -> None:
    assert core.keys.create("ann", "laptop")[0].scopes == ("submit",)


@pytest.mark.parametrize("scopes", [(), ("write",), ("read", "Admin")])
def test_unknown_scopes_are_refused_naming_the_known_ones(core: CoreInstallation, scopes: tuple[str, ...]) -> None:
    with pytest.raises(InvalidKeyRequest, match="read, submit, admin"):
        core.keys.create("ann", "laptop", scopes)


def test_a_key_that_no_scope_allows_anything_is_not_usable(core: CoreInstallation) -> None:
    core.keys.create("ann", "laptop")
    with transaction(core.sessions) as connection:
        connection.execute(update(api_keys).values(scopes=["of-another-version"]))
    assert [key.is_usable for key in core.keys.list()] == [False]


@pytest.mark.parametrize("limits", [KeyLimits(0), KeyLimits(None, 0), KeyLimits(10**9), KeyLimits(None, 1 << 60)])
def test_impossible_limits_are_refused(core: CoreInstallation, limits: KeyLimits) -> None:
    with pytest.raises(InvalidKeyRequest, match="max_"):
        core.keys.create("ann", "laptop", limits=limits)


def test_rotation_makes_a_key_like_the_earlier_one_which_goes_on_for_the_overlap(core: CoreInstallation) -> None:
    limits = KeyLimits(max_requests_per_minute=7, max_upload_bytes=9)
    old, old_text = core.keys.create("ann", "laptop", ("read",), 3600, limits=limits)
    new, new_text = core.keys.rotate(old.id, overlap_seconds=60)
    assert (new.owner, new.name, new.scopes, new.limits) == (old.owner, old.name, old.scopes, limits)
    assert new.expires_at == pytest.approx(new.created_at + 3600, abs=1)
    for text, key in ((old_text, old), (new_text, new)):
        assert core.keys.authenticate(text) == Principal("ann", frozenset({Scope.READ}), key.id, limits)
    replaced = core.keys.list()[0]
    assert replaced.replaced_by == new.id
    assert replaced.expires_at == pytest.approx(new.created_at + 60, abs=1)


def test_rotation_without_an_overlap_ends_the_earlier_key_at_once(core: CoreInstallation) -> None:
    old, old_text = core.keys.create("ann", "laptop")
    assert core.keys.authenticate(old_text) is not None
    new, new_text = core.keys.rotate(old.id)
    assert core.keys.authenticate(old_text) is None
    assert core.keys.authenticate(new_text) is not None
    assert new.expires_at is None


def test_an_overlap_lengthens_no_life(core: CoreInstallation) -> None:
    old, _ = core.keys.create("ann", "laptop", expires_in_seconds=10)
    core.keys.rotate(old.id, overlap_seconds=3600)
    assert core.keys.list()[0].expires_at == old.expires_at


def test_what_cannot_be_rotated(core: CoreInstallation) -> None:
    replaced, revoked = core.keys.create("ann", "a")[0].id, core.keys.create("ann", "b")[0].id
    new, _ = core.keys.rotate(replaced, overlap_seconds=60)
    core.keys.revoke(revoked)
    with pytest.raises(KeyNotRotatable, match=new.id):
        core.keys.rotate(replaced)
    with pytest.raises(KeyNotRotatable, match="revoked or expired"):
        core.keys.rotate(revoked)
    with pytest.raises(KeyNotFound):
        core.keys.rotate("key-" + "0" * 26)
    for seconds in (-1, 31 * 86_400, float("nan")):
        with pytest.raises(InvalidKeyRequest, match="30 days"):
            core.keys.rotate(new.id, overlap_seconds=seconds)


@pytest.mark.parametrize("how", ["revoke", "rotate"])
def test_another_server_forgets_a_key_within_a_minute(core: CoreInstallation, how: str) -> None:
    now = [1000.0]
    other = KeyService(core.sessions, core.settings, clock=lambda: now[0])
    key, plaintext = core.keys.create("ann", "laptop")
    assert other.authenticate(plaintext) is not None
    getattr(core.keys, how)(key.id)
    assert other.authenticate(plaintext) is not None, "it remembers the key: else every request asked the database"
    now[0] += CACHE_SECONDS + 0.01
    assert CACHE_SECONDS < 60
    assert other.authenticate(plaintext) is None


def test_a_remembered_key_ends_when_it_expires(core: CoreInstallation) -> None:
    now = [1000.0]
    other = KeyService(core.sessions, core.settings, clock=lambda: now[0])
    _, plaintext = core.keys.create("ann", "laptop", expires_in_seconds=5)
    assert other.authenticate(plaintext) is not None
    now[0] += 5.01
    assert other.find_cached(plaintext) is None


def test_a_key_of_an_earlier_secret_key_goes_on_and_needs_that_only_once(
    core: CoreInstallation, tmp_path: Path
) -> None:
    _, plaintext = core.keys.create("ann", "laptop")
    old = (core.settings.data_dir / "secret_key").read_text().strip()
    new = base64.b64encode(b"n" * 32).decode()
    rotated = Settings(data_dir=tmp_path, secret_key=new, previous_secret_keys=f"{old},")
    assert KeyService(core.sessions, rotated).authenticate(plaintext) is not None
    later = Settings(data_dir=tmp_path, secret_key=new)
    assert KeyService(core.sessions, later).authenticate(plaintext) is not None
    assert core.keys.authenticate(plaintext) is None


def test_the_first_key_of_an_owner_makes_its_project(core: CoreInstallation) -> None:
    projects = ProjectService(core.sessions)
    projects.create("team", name="The team", max_queued_jobs=5)
    core.keys.create("ann", "laptop")
    core.keys.create("ann", "desktop")
    core.keys.create("team", "laptop")
    found, has_more = projects.list(after=None, limit=10)
    assert ([project.id for project in found], has_more) == (["ann", "team"], False)
    assert (projects.get("team").name, projects.get("team").max_queued_jobs) == ("The team", 5)
