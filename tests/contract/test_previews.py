"""Previews as the database keeps them: asked for, taken by one worker, ended once, and never left hanging."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update

from app.db.clock import db_now
from app.db.models import preview_secrets, previews
from app.db.session import snapshot, transaction
from app.jobs.catalogue import BUILT_IN_REGISTRIES, Catalogue, built_in_catalogue
from app.jobs.errors import InvalidSubmission
from app.jobs.views import JobError
from app.previews.errors import PreviewNotFound, TooManyPreviews
from app.previews.service import MAX_RESULT_BYTES, MAX_UNFINISHED
from app.previews.views import PreviewClaim, PreviewRequest, PreviewStatus, PreviewView
from tests.support.installation import OWNER, CoreInstallation

CONFIG = {"model_name_or_path": "owner/model"}
TOKEN = "hf_" + "s" * 34


def ask(core: CoreInstallation, *, config: Mapping[str, Any] | None = None, num_samples: int = 2) -> PreviewView:
    file = core.upload('{"messages": []}', "{}")
    return core.previews.create(OWNER, PreviewRequest({**CONFIG, **(config or {})}, file.id, num_samples))


def claim(core: CoreInstallation, worker_id: str = "wrk-1") -> PreviewClaim:
    claimed = core.previews.claim(worker_id)
    assert claimed is not None
    return claimed


def age(core: CoreInstallation, preview_id: str, *columns: str) -> None:
    """Makes these times of the preview lie more than a day back."""
    values = {name: db_now() - 100_000 for name in columns}
    with transaction(core.sessions) as connection:
        connection.execute(update(previews).where(previews.c.id == preview_id).values(values))


def count_secrets(core: CoreInstallation) -> int:
    with snapshot(core.sessions) as connection:
        return connection.execute(select(func.count()).select_from(preview_secrets)).scalar_one()


def test_a_preview_is_rendered_once_and_then_answered(core: CoreInstallation) -> None:
    core.add_worker()
    asked = ask(core, config={"huggingface_hub_token": TOKEN})
    assert asked.status is PreviewStatus.QUEUED
    assert (asked.config["dataset_key"], asked.config["huggingface_hub_token"]) == ("chat", None)

    claimed = claim(core)
    assert (claimed.preview_id, claimed.num_samples, claimed.num_rows) == (asked.id, 2, 2)
    assert claimed.secrets == {"huggingface_hub_token": TOKEN}
    assert TOKEN not in repr(claimed)
    assert core.previews.claim("wrk-1") is None
    assert core.previews.get_status(OWNER, asked.id) is PreviewStatus.RUNNING

    assert core.previews.succeed(asked.id, claimed.attempt, {"samples": [], "text": "a\0b\ud800", "num_rows": 2})
    done = core.previews.get(OWNER, asked.id)
    assert done.status is PreviewStatus.SUCCEEDED
    assert done.result == {"samples": [], "text": "a\ufffdb\ufffd", "num_rows": 2}
    assert count_secrets(core) == 0


def test_a_preview_is_its_owners_alone(core: CoreInstallation) -> None:
    asked = ask(core)
    for preview_id in (asked.id, "preview-nope", "job-x", "", "preview-" + "0" * 26):
        with pytest.raises(PreviewNotFound):
            core.previews.get("bob", preview_id)
        with pytest.raises(PreviewNotFound):
            core.previews.get_status("bob", preview_id)
    with pytest.raises(InvalidSubmission, match="no such file"):
        core.previews.create("bob", PreviewRequest(CONFIG, asked.file_id, 1))


@pytest.mark.parametrize(
    ("config", "num_samples", "param", "message"),
    [
        ({"lora_rang": 1}, 1, "config.lora_rang", "'lora_rank'"),
        ({"dataset_key": "chatt"}, 1, "config.dataset_key", "'chat'"),
        ({"max_length": "many"}, 1, "config.max_length", "max_length"),
        ({"output_dir": "/etc"}, 1, "config.output_dir", "artifacts"),
        ({"model_name_or_path": "/root"}, 1, "config.model_name_or_path", "owner/name"),
        ({}, 0, "n", "between 1 and 100"),
        ({}, 101, "n", "between 1 and 100"),
    ],
)
def test_what_is_wrong_is_said_at_once(
    core: CoreInstallation, config: dict[str, Any], num_samples: int, param: str, message: str
) -> None:
    with pytest.raises(InvalidSubmission) as refused:
        ask(core, config=config, num_samples=num_samples)
    [problem] = refused.value.problems
    assert problem.param == param
    assert message in problem.message


def test_rows_of_no_known_shape_name_the_file(core: CoreInstallation) -> None:
    file = core.upload('{"prompt": ""}')
    with pytest.raises(InvalidSubmission) as refused:
        core.previews.create(OWNER, PreviewRequest(CONFIG, file.id, 1))
    [problem] = refused.value.problems
    assert problem.param == "file"
    assert problem.message.startswith("file: its first row")


def test_a_worker_takes_only_what_it_has_the_keys_for(core: CoreInstallation) -> None:
    registries = {**BUILT_IN_REGISTRIES, "datasets": (*BUILT_IN_REGISTRIES["datasets"], "mine")}
    core.add_worker("wrk-1")
    core.add_worker("wrk-2", catalogue=Catalogue(registries, built_in_catalogue().configs))
    core.previews._workers._cached = None
    special = ask(core, config={"dataset_key": "mine"})
    plain = ask(core)
    assert claim(core, "wrk-1").preview_id == plain.id
    assert core.previews.claim("wrk-1") is None
    assert core.previews.claim("wrk-unknown") is None
    assert claim(core, "wrk-2").preview_id == special.id


def test_workers_that_ask_at_once_get_different_previews(core: CoreInstallation) -> None:
    core.add_worker()
    asked = {ask(core).id for _ in range(6)}
    with ThreadPoolExecutor(6) as pool:
        claimed = list(pool.map(lambda _: core.previews.claim("wrk-1"), range(6)))
    assert {one.preview_id for one in claimed if one is not None} == asked


def test_a_lost_worker_cannot_write_and_its_preview_is_rendered_again(core: CoreInstallation) -> None:
    core.add_worker()
    asked = ask(core)
    lost = claim(core)
    assert core.previews.renew(asked.id, lost.attempt)
    age(core, asked.id, "lease_expires_at")
    core.previews.reconcile()
    assert core.previews.get_status(OWNER, asked.id) is PreviewStatus.QUEUED

    second = claim(core)
    assert second.attempt == lost.attempt + 1
    assert not core.previews.renew(asked.id, lost.attempt)
    assert not core.previews.succeed(asked.id, lost.attempt, {"num_rows": 0})
    assert not core.previews.fail(asked.id, lost.attempt, JobError("x", "y"))
    core.previews.release(asked.id, lost.attempt)
    assert core.previews.get_status(OWNER, asked.id) is PreviewStatus.RUNNING


def test_a_preview_that_loses_its_worker_twice_fails(core: CoreInstallation) -> None:
    core.add_worker()
    asked = ask(core, config={"huggingface_hub_token": TOKEN})
    for _ in range(2):
        claim(core)
        age(core, asked.id, "lease_expires_at")
        core.previews.reconcile()
    failed = core.previews.get(OWNER, asked.id)
    assert failed.status is PreviewStatus.FAILED
    assert failed.error is not None
    assert failed.error.code == "worker_lost"
    assert count_secrets(core) == 0


def test_a_worker_that_stops_hands_its_preview_back_as_often_as_it_likes(core: CoreInstallation) -> None:
    core.add_worker()
    asked = ask(core)
    for _ in range(4):
        core.previews.release(asked.id, claim(core).attempt)
    assert core.previews.get_status(OWNER, asked.id) is PreviewStatus.QUEUED


def test_a_preview_that_nobody_takes_fails_in_the_end(core: CoreInstallation) -> None:
    asked = ask(core)
    core.previews.reconcile()
    assert core.previews.get_status(OWNER, asked.id) is PreviewStatus.QUEUED
    age(core, asked.id, "created_at")
    core.previews.reconcile()
    error = core.previews.get(OWNER, asked.id).error
    assert error is not None
    assert (error.code, "/v1/workers" in error.message) == ("no_worker", True)


def test_a_preview_is_forgotten_after_a_day(core: CoreInstallation) -> None:
    core.add_worker()
    asked = ask(core)
    core.previews.succeed(asked.id, claim(core).attempt, {"num_rows": 1})
    core.previews.reconcile()
    assert core.previews.get(OWNER, asked.id).result == {"num_rows": 1}
    age(core, asked.id, "finished_at")
    core.previews.reconcile()
    with pytest.raises(PreviewNotFound):
        core.previews.get(OWNER, asked.id)


def test_a_file_that_is_deleted_meanwhile_fails_the_preview_and_no_other(core: CoreInstallation) -> None:
    core.add_worker()
    asked, other = ask(core), ask(core)
    core.files.delete(OWNER, asked.file_id)
    assert claim(core).preview_id == other.id
    error = core.previews.get(OWNER, asked.id).error
    assert error is not None
    assert (error.code, error.param) == ("file_not_found", "file")


def test_what_is_shown_of_a_file_goes_with_the_file(core: CoreInstallation) -> None:
    core.add_worker()
    asked, other = ask(core), ask(core)
    for _ in range(2):
        claimed = claim(core)
        core.previews.succeed(claimed.preview_id, claimed.attempt, {"num_rows": 1})
    core.files.delete(OWNER, asked.file_id)
    with pytest.raises(PreviewNotFound):
        core.previews.get(OWNER, asked.id)
    assert core.previews.get(OWNER, other.id).result == {"num_rows": 1}


def test_a_secret_that_cannot_be_opened_fails_the_preview(core: CoreInstallation) -> None:
    core.add_worker()
    asked = ask(core, config={"huggingface_hub_token": TOKEN})
    with transaction(core.sessions) as connection:
        connection.execute(update(preview_secrets).values(key_id="another"))
    assert core.previews.claim("wrk-1") is None
    error = core.previews.get(OWNER, asked.id).error
    assert error is not None
    assert error.code == "secret_unreadable"


def test_a_result_over_the_limit_is_an_error_that_names_n(core: CoreInstallation) -> None:
    core.add_worker()
    asked = ask(core)
    core.previews.succeed(asked.id, claim(core).attempt, {"text": "x" * MAX_RESULT_BYTES})
    failed = core.previews.get(OWNER, asked.id)
    assert failed.error is not None
    assert (failed.result, failed.error.code, failed.error.param) == (None, "preview_too_large", "n")


def test_an_owner_has_only_so_many_unfinished_ones(core: CoreInstallation) -> None:
    core.add_worker()
    file = core.upload('{"messages": []}')
    request = PreviewRequest(CONFIG, file.id, 1)
    for _ in range(MAX_UNFINISHED):
        core.previews.create(OWNER, request)
    with pytest.raises(TooManyPreviews):
        core.previews.create(OWNER, request)
    claimed = claim(core)
    core.previews.fail(claimed.preview_id, claimed.attempt, JobError("x", "y"))
    core.previews.create(OWNER, request)
