"""Previews by real workers: beside a job that holds the host, over deaths and stops, and exactly what training sees."""

import pytest

from app.api.rendering import json_response, render_preview
from app.api.schemas import Preview
from app.previews.views import PreviewStatus
from app.states import JobStatus

pytestmark = pytest.mark.timeout(300)
STUBS = "tests.integration.worker.stub_worker --stub-previews"
ROW = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello there"}]}


@pytest.fixture
def held(installation):
    """An installation whose previews stay for ever until the file is removed."""
    hold = installation.settings.data_dir / "hold"
    hold.touch()
    return hold


def wait_held(installation, until):
    path = installation.settings.data_dir / "held"
    until(lambda: path.exists() and path.read_text())
    pid = int(path.read_text())
    path.unlink()
    return pid


def test_a_preview_is_rendered_while_a_job_holds_the_host(short_folder, build_installation):
    from tests.support.tiny_models import build_tiny_llama

    models = short_folder / "preview-models"
    build_tiny_llama(models / "tiny")
    (models / "empty").mkdir()
    (models / "empty" / "config.json").write_text("{}")
    installation = build_installation("previews", model_root=models)
    worker = installation.start_worker()
    job_id = installation.submit({"train": {"sleep": 600}})
    installation.wait_asleep(job_id)

    rows = [ROW, {"messages": [*ROW["messages"], {"role": "nobody"}]}, ROW]
    preview = installation.wait_preview(
        installation.ask_preview(*rows, num_samples=1, model_name_or_path="local:tiny", collator_key="chat")
    )

    assert preview.status is PreviewStatus.SUCCEEDED, (preview.error, worker.log_path.read_text())
    assert installation.get(job_id).status is JobStatus.RUNNING
    answered = Preview.model_validate_json(json_response(render_preview(preview)).body)
    assert answered.result is not None
    assert (answered.result.num_rows, answered.result.num_errors) == (3, 1)
    assert [error.row for error in answered.result.errors] == [2]
    [sample] = answered.result.samples
    assert "".join(token.text for token in sample.tokens) == sample.text
    learned = "".join(token.text for token in sample.tokens if token.is_target)
    assert "hello there" in learned
    assert "user" not in learned
    assert sample.num_target_tokens == sum(token.is_target for token in sample.tokens)

    failed = installation.wait_preview(installation.ask_preview(ROW, model_name_or_path="local:empty"))
    assert failed.status is PreviewStatus.FAILED
    assert failed.error.code == "model_not_loadable"
    assert str(short_folder) not in failed.error.message
    assert not any((installation.settings.data_dir / "previews").iterdir())


def test_a_preview_of_a_killed_worker_is_rendered_by_another(installation, until, alive, held):
    worker = installation.start_worker(program=f"-m {STUBS}")
    preview_id = installation.ask_preview(ROW)
    pid = wait_held(installation, until)
    worker.kill()
    until(lambda: not alive(pid), seconds=5.0)
    held.unlink()

    installation.start_worker(program=f"-m {STUBS}")
    expire_lease(installation, preview_id)
    installation.previews.reconcile()
    assert installation.wait_preview(preview_id).result == {"num_rows": 1}


def test_a_worker_that_stops_hands_its_preview_back_at_once(installation, until, alive, held):
    worker = installation.start_worker(program=f"-m {STUBS}")
    preview_id = installation.ask_preview(ROW)
    pid = wait_held(installation, until)
    worker.terminate(seconds=10)
    assert not alive(pid)
    assert installation.previews.get("owner", preview_id).status is PreviewStatus.QUEUED


def expire_lease(installation, preview_id):
    from sqlalchemy import update

    from app.db.models import previews
    from app.db.session import transaction

    with transaction(installation.sessions) as connection:
        connection.execute(update(previews).where(previews.c.id == preview_id).values(lease_expires_at=1.0))
