"""Identifiers, states, settings, the secret key, encryption."""

import base64
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.ids import is_id, new_id
from app.secret_key import BadSecretKey, load_secret_key
from app.secrets.cipher import SecretCipher, UnreadableSecret
from app.settings import Settings
from app.states import FINAL_STATUSES, TRANSITIONS, JobStatus, can_follow


def test_ids_sort_by_age_and_differ() -> None:
    ids = [new_id("job") for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert all(is_id(one, "job") and len(one) == 30 for one in ids)


@pytest.mark.parametrize("text", ["", "job-", "job-x", "file-" + "0" * 26, "job-" + "U" * 26, "job-" + "0" * 27])
def test_other_texts_are_no_job_ids(text: str) -> None:
    assert not is_id(text, "job")


def test_only_a_retry_leaves_a_final_state() -> None:
    assert set(TRANSITIONS) == set(JobStatus)
    for status in FINAL_STATUSES:
        assert TRANSITIONS[status] <= {JobStatus.QUEUED}
    assert TRANSITIONS[JobStatus.SUCCEEDED] == frozenset()
    assert not can_follow(JobStatus.QUEUED, JobStatus.SUCCEEDED)


def test_urls_are_derived_from_the_data_folder(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert settings.database_url == f"sqlite:///{tmp_path}/finesmith.db"
    assert settings.redis_url == f"unix://{settings.valkey_socket}"
    assert settings.storage_url == str(tmp_path / "storage")


def test_socket_path_stays_short(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / ("x" * 100))
    assert len(str(settings.valkey_socket)) < 100


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINESMITH_WORKER_GPUS", "0, 2")
    monkeypatch.setenv("FINESMITH_LEASE_SECONDS", "90")
    monkeypatch.setenv("FINESMITH_TRUSTED_MODEL_CODE", "a/b@1, c/d@2")
    settings = Settings()
    assert (settings.worker_gpus, settings.lease_seconds) == ((0, 2), 90.0)
    assert settings.trusted_model_code == ("a/b@1", "c/d@2")
    monkeypatch.setenv("FINESMITH_WORKER_GPUS", "")
    assert Settings().worker_gpus == ()


def test_heartbeat_must_be_below_the_lease() -> None:
    with pytest.raises(ValidationError, match="heartbeat_seconds"):
        Settings(lease_seconds=5, heartbeat_seconds=5)


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_secret_key_is_made_once_and_private(tmp_path: Path) -> None:
    key = load_secret_key(Settings(data_dir=tmp_path))
    assert load_secret_key(Settings(data_dir=tmp_path)) == key
    path = tmp_path / "secret_key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir()] == ["secret_key"]


@pytest.mark.parametrize("text", ["short", "not base64 !", base64.b64encode(b"x" * 31).decode()])
def test_bad_secret_key_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadSecretKey) as caught:
        load_secret_key(Settings(data_dir=tmp_path, secret_key=text))
    assert text not in str(caught.value)


def test_sealed_secret_opens_only_where_it_belongs() -> None:
    cipher = SecretCipher(b"k" * 32)
    sealed = cipher.seal("job-1", field="token", value="s3cret")
    assert cipher.open("job-1", sealed) == "s3cret"
    with pytest.raises(UnreadableSecret):
        cipher.open("job-2", sealed)
    with pytest.raises(UnreadableSecret):
        SecretCipher(b"q" * 32).open("job-1", sealed)
