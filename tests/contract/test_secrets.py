"""Named secrets: kept encrypted, used by name, and encrypted anew when the installation's key changes."""

import base64
from pathlib import Path

import pytest
from sqlalchemy import insert, select, update

from app.db.models import job_secrets, preview_secrets, secrets, webhooks
from app.db.session import snapshot, transaction
from app.ids import new_id
from app.jobs.commands import JobSubmission, Outcome
from app.jobs.errors import InvalidSubmission
from app.jobs.service import JobService
from app.jobs.views import JobError
from app.previews.service import PreviewService
from app.previews.views import PreviewRequest
from app.secrets.cipher import SealedSecret, build_cipher
from app.secrets.errors import InvalidSecret, SecretNotFound, TooManySecrets
from app.secrets.rotation import rotate_secrets
from app.secrets.service import MAX_SECRETS, SecretService
from app.settings import Settings
from tests.support.installation import CONFIG, OWNER, CoreInstallation

FIRST, SECOND = "first-value", "second-value"


@pytest.fixture
def named(core: CoreInstallation) -> SecretService:
    return SecretService(core.sessions, core.settings)


def claim(core: CoreInstallation, job_id: str) -> dict[str, str]:
    """What the job's worker gets."""
    core.add_worker(slots=10)
    core.jobs.dispatch_ready()
    claimed = core.jobs.claim(job_id, "wrk-1")
    assert claimed is not None
    core.jobs.finish(job_id, claimed.attempt, Outcome("failed", error=JobError("user_code", "broken")))
    return dict(claimed.secrets)


def test_a_secret_has_a_name_and_times_and_shows_no_value(core: CoreInstallation, named: SecretService) -> None:
    made = named.put(OWNER, "hub", FIRST)
    replaced = named.put(OWNER, "hub", SECOND)
    assert (replaced.id, replaced.name, replaced.created_at) == (made.id, "hub", made.created_at)
    assert replaced.updated_at >= made.updated_at
    assert named.get(OWNER, "hub") == replaced
    with snapshot(core.sessions) as connection:
        [row] = connection.execute(select(secrets)).all()
    assert SECOND not in str(row)
    assert SECOND.encode() not in row.ciphertext


def test_secrets_of_another_project_are_not_there(core: CoreInstallation, named: SecretService) -> None:
    named.put(OWNER, "hub", FIRST)
    named.put("bob", "hub", SECOND)
    for act in (named.get, named.delete):
        with pytest.raises(SecretNotFound):
            act("eve", "hub")
    assert named.list("eve", after=None, limit=10) == ([], False)
    job = core.submit(config={"huggingface_hub_token": "secret:hub"})
    assert claim(core, job.id) == {"huggingface_hub_token": FIRST}
    with pytest.raises(InvalidSubmission, match="no secret 'hub' in this project"):
        core.submit(owner="eve", config={"huggingface_hub_token": "secret:hub"})


def test_a_value_moved_to_another_project_does_not_open(core: CoreInstallation, named: SecretService) -> None:
    named.put(OWNER, "hub", FIRST)
    with transaction(core.sessions) as connection:
        connection.execute(update(secrets).values(owner="eve"))
    with pytest.raises(InvalidSubmission) as caught:
        core.submit(owner="eve", config={"huggingface_hub_token": "secret:hub"})
    assert caught.value.problems[0].code == "secret_unreadable"


@pytest.mark.parametrize("name", ["", "-x", "a/b", "a b", "x" * 65, "ä", "\0"])
def test_impossible_names_are_refused(named: SecretService, name: str) -> None:
    with pytest.raises(InvalidSecret):
        named.put(OWNER, name, FIRST)
    with pytest.raises(SecretNotFound):
        named.get(OWNER, name)


@pytest.mark.parametrize(
    "value", ["", "short", " spaced-value", "two\nlines-here", "x" * 4097, "nul\0value-x", "wört-long"]
)
def test_impossible_values_are_refused_without_showing_them(named: SecretService, value: str) -> None:
    with pytest.raises(InvalidSecret) as caught:
        named.put(OWNER, "hub", value)
    assert not value or value not in str(caught.value)


def test_a_project_has_no_endless_number_of_secrets(core: CoreInstallation, named: SecretService) -> None:
    named.put(OWNER, "first", FIRST)
    row = {"key_id": "k", "nonce": b"n", "ciphertext": b"c", "created_at": 0.0, "updated_at": 0.0}
    rows = [{"id": new_id("sec"), "owner": OWNER, "name": f"s{number}", **row} for number in range(MAX_SECRETS - 1)]
    with transaction(core.sessions) as connection:
        connection.execute(insert(secrets), rows)
    with pytest.raises(TooManySecrets):
        named.put(OWNER, "one-more", FIRST)
    named.put(OWNER, "first", SECOND)
    found, has_more = named.list(OWNER, after="first", limit=3)
    assert ([secret.name for secret in found], has_more) == (["s0", "s1", "s10"], True)


def test_the_answered_config_names_the_secret_and_can_be_posted_again(
    core: CoreInstallation, named: SecretService
) -> None:
    named.put(OWNER, "hub", FIRST)
    job = core.submit(config={"huggingface_hub_token": "secret:hub", "wandb_api_key": "plain-text-key"})
    assert (job.config["huggingface_hub_token"], job.config["wandb_api_key"]) == ("secret:hub", None)
    again = core.jobs.submit(OWNER, JobSubmission(config=job.config)).job
    assert again.config == job.config
    assert claim(core, again.id) == {"huggingface_hub_token": FIRST}


def test_an_unknown_name_is_an_error_with_the_known_ones_near_ones_first(
    core: CoreInstallation, named: SecretService
) -> None:
    for name in ("alpha", "hub-token", "zeta"):
        named.put(OWNER, name, FIRST)
    config = {**CONFIG, "huggingface_hub_token": "secret:hubtoken", "wandb_api_key": "secret:"}
    [hub, wandb] = core.jobs.validate(OWNER, JobSubmission(config=config)).problems
    assert (hub.param, hub.code) == ("config.huggingface_hub_token", "unknown_secret")
    assert hub.message.endswith("known are hub-token, alpha, zeta")
    assert wandb.param == "config.wandb_api_key"


def test_a_job_keeps_its_copy_and_a_retry_takes_the_present_value(core: CoreInstallation, named: SecretService) -> None:
    named.put(OWNER, "hub", FIRST)
    job = core.submit(config={"huggingface_hub_token": "secret:hub", "wandb_api_key": "plain-text-key"})
    named.put(OWNER, "hub", SECOND)
    assert claim(core, job.id) == {"huggingface_hub_token": FIRST, "wandb_api_key": "plain-text-key"}
    core.jobs.retry(OWNER, job.id)
    assert claim(core, job.id) == {"huggingface_hub_token": SECOND, "wandb_api_key": "plain-text-key"}
    named.delete(OWNER, "hub")
    core.jobs.retry(OWNER, job.id)
    assert claim(core, job.id) == {"huggingface_hub_token": SECOND, "wandb_api_key": "plain-text-key"}


def test_previews_take_secrets_by_name(core: CoreInstallation, named: SecretService) -> None:
    named.put(OWNER, "hub", FIRST)
    core.add_worker()
    file = core.upload('{"text": "a"}')
    config = {"model_name_or_path": "owner/model", "huggingface_hub_token": "secret:hub"}
    preview = core.previews.create(OWNER, PreviewRequest(config, file.id, 1))
    assert preview.config["huggingface_hub_token"] == "secret:hub"
    claimed = core.previews.claim("wrk-1")
    assert claimed is not None
    assert claimed.secrets == {"huggingface_hub_token": FIRST}
    with pytest.raises(InvalidSubmission, match="no secret"):
        core.previews.create(OWNER, PreviewRequest({**config, "wandb_api_key": "secret:x"}, file.id, 1))


def test_a_new_secret_key_opens_what_the_earlier_one_sealed_and_then_replaces_it(
    core: CoreInstallation, named: SecretService, tmp_path: Path
) -> None:
    named.put(OWNER, "hub", FIRST)
    job = core.submit(config={"huggingface_hub_token": "secret:hub", "wandb_api_key": "plain-text-key"})
    file = core.upload('{"text": "a"}')
    config = {"model_name_or_path": "owner/model", "huggingface_hub_token": FIRST}
    core.previews.create(OWNER, PreviewRequest(config, file.id, 1))
    add_webhook(
        core, "hook-1", build_cipher(core.settings, "webhook-secrets").seal("hook-1", field="webhook", value=FIRST)
    )

    old = (core.settings.data_dir / "secret_key").read_text().strip()
    new = base64.b64encode(b"n" * 32).decode()
    between = Settings(data_dir=tmp_path, secret_key=new, previous_secret_keys=old)
    after = Settings(data_dir=tmp_path, secret_key=new)
    rotated = rotate_secrets(core.sessions, between)
    assert rotated.num_resealed == {"job_secrets": 2, "preview_secrets": 1, "secrets": 1, "webhooks": 1}
    assert set(rotated.num_unreadable.values()) == {0}
    assert set(rotate_secrets(core.sessions, after).num_resealed.values()) == {0}

    core.add_worker()
    jobs = JobService(core.sessions, settings=after, storage=core.storage)
    jobs.dispatch_ready()
    claimed = jobs.claim(job.id, "wrk-1")
    assert claimed is not None
    assert claimed.secrets == {"huggingface_hub_token": FIRST, "wandb_api_key": "plain-text-key"}
    preview = PreviewService(core.sessions, settings=after).claim("wrk-1")
    assert preview is not None
    assert preview.secrets == {"huggingface_hub_token": FIRST}
    with snapshot(core.sessions) as connection:
        hook = connection.execute(select(webhooks)).one()
    sealed = SealedSecret("webhook", hook.key_id, hook.nonce, hook.ciphertext)
    assert build_cipher(after, "webhook-secrets").open("hook-1", sealed) == FIRST


def test_what_no_key_opens_is_counted_and_left_as_it_is(core: CoreInstallation, tmp_path: Path) -> None:
    core.submit(config={"huggingface_hub_token": FIRST})
    other = Settings(data_dir=tmp_path, secret_key=base64.b64encode(b"n" * 32).decode())
    rotated = rotate_secrets(core.sessions, other)
    assert (rotated.num_resealed["job_secrets"], rotated.num_unreadable["job_secrets"]) == (0, 1)
    assert rotate_secrets(core.sessions, core.settings).num_unreadable["job_secrets"] == 0


def test_a_rotation_takes_more_rows_than_fit_into_one_transaction(core: CoreInstallation, tmp_path: Path) -> None:
    cipher = build_cipher(core.settings, "job-secrets")
    job = core.submit()
    sealed = [cipher.seal(job.id, field=f"field-{number}", value=FIRST) for number in range(450)]
    rows = [
        {"job_id": job.id, "field": one.field, "key_id": one.key_id, "nonce": one.nonce, "ciphertext": one.ciphertext}
        for one in sealed
    ]
    with transaction(core.sessions) as connection:
        connection.execute(insert(job_secrets), rows)
    old = (core.settings.data_dir / "secret_key").read_text().strip()
    new = Settings(data_dir=tmp_path, secret_key=base64.b64encode(b"n" * 32).decode(), previous_secret_keys=old)
    assert rotate_secrets(core.sessions, new).num_resealed["job_secrets"] == 450
    with snapshot(core.sessions) as connection:
        assert len(set(connection.execute(select(job_secrets.c.key_id)).scalars())) == 1
        assert connection.execute(select(preview_secrets)).all() == []


def add_webhook(core: CoreInstallation, webhook_id: str, sealed: SealedSecret) -> None:
    values = {"id": webhook_id, "owner": OWNER, "url": "https://example.com", "events": [], "created_at": 0.0}
    stored = {"key_id": sealed.key_id, "nonce": sealed.nonce, "ciphertext": sealed.ciphertext}
    with transaction(core.sessions) as connection:
        connection.execute(insert(webhooks).values(**values, **stored))
