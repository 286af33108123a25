"""The thread that renders previews outlives what goes wrong with one of them."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.jobs.views import JobError
from app.previews.views import PreviewClaim, PreviewRequest, PreviewStatus, PreviewView
from tests.support.installation import OWNER, CoreInstallation, migrate_sqlite, open_installation
from worker import preview_thread
from worker.preview_run import Rendered
from worker.preview_thread import PreviewThread

Render = Callable[[PreviewClaim, Callable[[], None]], Rendered]


class Renderer:
    """Renders by a function of the test's."""

    def __init__(self, render: Render) -> None:
        self._render = render

    def render(self, claim: PreviewClaim, *, check: Callable[[], None]) -> Rendered:
        return self._render(claim, check)

    def remove_leftovers(self) -> None:
        """There are none."""


@pytest.fixture
def core(tmp_path: Path) -> Iterator[CoreInstallation]:
    migrate_sqlite(tmp_path)
    with open_installation(tmp_path) as core:
        core.add_worker()
        yield core


@pytest.fixture
def start(core: CoreInstallation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Render], PreviewThread]]:
    """Starts the thread with a way to render."""
    monkeypatch.setattr(preview_thread, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(preview_thread, "LEASE_SECONDS", 0.03)
    started: list[PreviewThread] = []

    def start_thread(render: Render) -> PreviewThread:
        thread = PreviewThread(core.previews, worker_id="wrk-1", renderer=Renderer(render))  # type: ignore[arg-type]
        started.append(thread)
        thread.start()
        return thread

    yield start_thread
    for thread in started:
        thread.stop()
        thread.join(5)


def ask(core: CoreInstallation) -> str:
    file = core.upload()
    return core.previews.create(OWNER, PreviewRequest({"model_name_or_path": "a/b"}, file.id, 1)).id


def wait(core: CoreInstallation, preview_id: str) -> PreviewView:
    pause = threading.Event()
    for _ in range(1000):
        preview = core.previews.get(OWNER, preview_id)
        if preview.status in (PreviewStatus.SUCCEEDED, PreviewStatus.FAILED):
            return preview
        pause.wait(0.01)
    raise AssertionError(preview)


def test_one_that_brings_the_renderer_down_fails_and_the_next_is_rendered(core: CoreInstallation, start) -> None:
    asked = [ask(core) for _ in range(3)]

    def render(claim: PreviewClaim, check: Callable[[], None]) -> Rendered:
        if claim.preview_id == asked[0]:
            raise RuntimeError("secret path")
        if claim.preview_id == asked[1]:
            return Rendered(error=JobError("invalid_data", "bad rows", param="file"))
        return Rendered(result={"num_rows": 1})

    start(render)
    first, second, third = (wait(core, preview_id) for preview_id in asked)
    assert first.error == JobError("internal_error", "the worker failed: RuntimeError")
    assert second.error == JobError("invalid_data", "bad rows", param="file")
    assert third.result == {"num_rows": 1}


def test_a_lease_is_kept_while_it_is_ours_and_given_up_when_it_is_not(core: CoreInstallation, start) -> None:
    preview_id = ask(core)
    is_taken_away = threading.Event()
    attempts: list[int] = []

    def render(claim: PreviewClaim, check: Callable[[], None]) -> Rendered:
        attempts.append(claim.attempt)
        if claim.attempt == 1:
            core.previews.release(claim.preview_id, claim.attempt)
            is_taken_away.set()
            for _ in range(10_000):
                check()
                threading.Event().wait(0.01)
        return Rendered(result={"num_rows": claim.attempt})

    start(render)
    assert is_taken_away.wait(5)
    assert wait(core, preview_id).result == {"num_rows": 2}
    assert attempts == [1, 2]


def test_a_stop_hands_back_what_is_being_rendered(core: CoreInstallation, start) -> None:
    preview_id = ask(core)
    has_begun = threading.Event()

    def render(claim: PreviewClaim, check: Callable[[], None]) -> Rendered:
        has_begun.set()
        while True:
            check()
            threading.Event().wait(0.01)

    thread = start(render)
    assert has_begun.wait(5)
    thread.stop()
    thread.join(5)
    assert core.previews.get_status(OWNER, preview_id) is PreviewStatus.QUEUED


def test_a_database_that_is_away_is_waited_for(core: CoreInstallation, start, monkeypatch) -> None:
    monkeypatch.setattr(preview_thread, "_RETRY_SECONDS", 0.01)
    real_claim, num_failures = core.previews.claim, 3
    failures = iter(range(num_failures))

    def claim(worker_id: str) -> PreviewClaim | None:
        # A database that goes away by itself cannot be had on SQLite.
        if next(failures, None) is not None:
            raise OSError("the disk is away")
        return real_claim(worker_id)

    monkeypatch.setattr(core.previews, "claim", claim)
    preview_id = ask(core)
    start(lambda claim, check: Rendered(result={"num_rows": 1}))
    assert wait(core, preview_id).status is PreviewStatus.SUCCEEDED
