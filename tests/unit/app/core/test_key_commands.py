"""`finesmith-server` on keys and secrets, and what it refuses to serve."""

import base64
import os
import socket
import stat
from pathlib import Path

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from app.cli import app
from app.db.clock import db_now
from app.db.models import api_keys
from app.db.session import transaction
from app.first_start import prepare_data_folder
from app.secret_key import BadSecretKey, load_secret_key, load_secret_keys
from app.settings import Settings
from tests.support.installation import CoreInstallation

REFUSED = "Refusing to listen on 0.0.0.0"


@pytest.fixture
def run(core: CoreInstallation, monkeypatch: pytest.MonkeyPatch):
    """Runs a command on the installation; a server that would start only says so."""
    monkeypatch.setenv("FINESMITH_DATA_DIR", str(core.settings.data_dir))
    monkeypatch.setenv("FINESMITH_DATABASE_URL", core.settings.database_url)
    # The servers themselves are started in other tests: here it counts whether they would be.
    monkeypatch.setattr("app.server.run_server", lambda settings, listener: print(f"serves on {settings.host}"))
    runner = CliRunner()

    def invoke(*arguments: str, **environment: str):
        return runner.invoke(app, arguments, env=environment)

    return invoke


def test_a_public_address_is_refused_without_a_key_that_opens_anything(run, core: CoreInstallation) -> None:
    serve = ("api", "--host", "0.0.0.0")

    def refuses() -> bool:
        result = run(*serve)
        return result.exit_code == 2 and REFUSED in result.output

    assert refuses()
    with socket.create_server(("0.0.0.0", 0)) as listener:
        inherited = run("api", "--listen-fd", str(os.dup(listener.fileno())))
    assert REFUSED in inherited.output
    key, _ = core.keys.create("ann", "laptop")
    assert "serves on 0.0.0.0" in run(*serve).output
    with transaction(core.sessions) as connection:
        connection.execute(update(api_keys).values(expires_at=db_now() - 1))
    assert refuses(), "the only key has expired"
    with transaction(core.sessions) as connection:
        connection.execute(update(api_keys).values(expires_at=None, scopes=[]))
    assert refuses(), "the only key has no scope"
    core.keys.create("ann", "second")
    assert not refuses()
    for known in core.keys.list():
        core.keys.revoke(known.id)
    assert refuses(), "all keys are revoked"
    assert key.id in run("keys", "list").output
    assert "serves on 127.0.0.1" in run("api").output


def test_the_embedded_service_always_has_a_key_before_it_listens(core: CoreInstallation) -> None:
    """`up --host 0.0.0.0`: whatever became of the first key, the server starts with one that works."""
    settings = core.settings
    path = prepare_data_folder(settings, num_workers=0).api_key_path
    first = path.read_text().strip()
    principal = core.keys.authenticate(first)
    assert principal is not None
    assert "admin" in principal.scopes
    assert prepare_data_folder(settings, num_workers=0).api_key_path.read_text().strip() == first
    for spoil in ({"expires_at": db_now() - 1}, {"revoked_at": db_now()}, {"scopes": []}):
        with transaction(core.sessions) as connection:
            connection.execute(update(api_keys).values(spoil))
        second = prepare_data_folder(settings, num_workers=0).api_key_path.read_text().strip()
        assert second != first
        assert core.keys.authenticate(second) is not None
        first = second


def test_keys_are_made_with_scopes_and_limits(run, core: CoreInstallation) -> None:
    made = run("keys", "create", "--owner", "bob", "--scope", "read", "--max-requests-per-minute", "9")
    principal = core.keys.authenticate(made.output.strip())
    assert principal is not None
    assert (principal.owner, sorted(principal.scopes)) == ("bob", ["read"])
    assert principal.limits.max_requests_per_minute == 9
    for arguments, scopes in (((), ["read", "submit"]), (("--admin",), ["admin", "read", "submit"])):
        principal = core.keys.authenticate(run("keys", "create", *arguments).output.strip())
        assert principal is not None
        assert sorted(principal.scopes) == scopes
    refused = run("keys", "create", "--scope", "write")
    assert refused.exit_code == 2
    assert "read, submit, admin" in " ".join(refused.output.split())


def test_a_key_is_rotated_on_the_command_line(run, core: CoreInstallation) -> None:
    key, plaintext = core.keys.create("ann", "laptop")
    new = run("keys", "rotate", key.id, "--overlap-hours", "1").output.strip()
    assert core.keys.authenticate(new) is not None
    assert core.keys.authenticate(plaintext) is not None
    assert "replaced" in run("keys", "list", COLUMNS="200").output
    again = run("keys", "rotate", key.id)
    assert again.exit_code == 2
    assert "replaced by" in " ".join(again.output.split())


def test_secrets_are_encrypted_anew_on_the_command_line(run, core: CoreInstallation) -> None:
    job = core.submit(config={"huggingface_hub_token": "some-token"})
    old = (core.settings.data_dir / "secret_key").read_text().strip()
    new = base64.b64encode(b"n" * 32).decode()
    failed = run("secrets", "rotate", FINESMITH_SECRET_KEY=new)
    assert failed.exit_code == 1
    assert "job_secrets: 1 can be opened with no key that is configured" in failed.output
    done = run("secrets", "rotate", FINESMITH_SECRET_KEY=new, FINESMITH_PREVIOUS_SECRET_KEYS=old)
    assert done.exit_code == 0
    assert "job_secrets: 1 encrypted anew" in done.output
    assert run("secrets", "rotate", FINESMITH_SECRET_KEY=new).exit_code == 0
    core.add_worker()
    core.jobs.dispatch_ready()
    assert core.jobs.claim(job.id, "wrk-1") is None, "the old key opens nothing any more"


def test_a_key_file_that_others_can_read_is_made_private_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(data_dir=tmp_path)
    key = load_secret_key(settings)
    assert not caplog.records
    path = tmp_path / "secret_key"
    path.chmod(0o644)
    assert load_secret_key(settings) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "could be read by others" in caplog.text


def test_a_readable_key_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(data_dir=tmp_path)
    load_secret_key(settings)
    (tmp_path / "secret_key").chmod(0o644)

    def refuse(self: Path, mode: int) -> None:
        raise PermissionError

    # Tests may run as root, to whom every file belongs.
    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(BadSecretKey, match="0600"):
        load_secret_key(settings)


@pytest.mark.parametrize("text", ["short", f"{base64.b64encode(b'k' * 32).decode()},short"])
def test_bad_previous_keys_are_refused_without_showing_them(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadSecretKey, match="FINESMITH_PREVIOUS_SECRET_KEYS") as caught:
        load_secret_keys(Settings(data_dir=tmp_path, previous_secret_keys=text))
    assert "short" not in str(caught.value)
