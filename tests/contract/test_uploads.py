"""Uploads that are sent twice because an answer was lost."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.files.views import FileView
from app.jobs.errors import IdempotencyConflict
from tests.support.installation import OWNER, CoreInstallation

ROWS = b'{"text": "one"}\n'


def upload(core: CoreInstallation, content: bytes = ROWS, *, key: str | None = "k", owner: str = OWNER) -> FileView:
    return core.files.create(owner, "rows.jsonl", "fine-tune", [content], idempotency_key=key)


def test_an_upload_sent_again_under_its_key_is_the_same_file(core: CoreInstallation) -> None:
    first = upload(core)
    assert upload(core) == first
    assert core.storage.list("files") == [first.storage_key]
    assert upload(core, key="other").id != first.id
    assert upload(core, key=None).id != upload(core, key=None).id
    assert upload(core, owner="bob").id != first.id


def test_another_content_under_the_key_is_refused_and_not_kept(core: CoreInstallation) -> None:
    first = upload(core)
    with pytest.raises(IdempotencyConflict):
        upload(core, b'{"text": "two"}\n')
    assert core.storage.list("files") == [first.storage_key]


def test_uploads_sent_at_once_under_one_key_are_one_file(core: CoreInstallation) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: upload(core).id, range(4)))
    assert len(set(found)) == 1
    assert core.storage.list("files") == [f"files/{found[0]}"]


def test_a_deleted_file_frees_its_key(core: CoreInstallation) -> None:
    first = upload(core)
    core.files.delete(OWNER, first.id)
    assert upload(core).id != first.id
