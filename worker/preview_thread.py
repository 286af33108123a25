"""Renders previews beside the jobs: a thread of the worker's main process, which no job holds up."""

import logging
import threading
import time

from app.jobs.views import JobError
from app.log_redaction import hide_secrets
from app.previews.service import LEASE_SECONDS, PreviewService
from app.previews.views import PreviewClaim
from worker.preview_run import PreviewRenderer, Rendered

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_FINISH_ATTEMPTS = 10


class PreviewThread:
    """Takes waiting previews one at a time. It asks the database, so that it needs no wake-up and misses none."""

    def __init__(self, service: PreviewService, *, worker_id: str, renderer: PreviewRenderer) -> None:
        self._service = service
        self._worker_id = worker_id
        self._renderer = renderer
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="previews", daemon=True)

    def start(self) -> None:
        """Begins to look for previews."""
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to hand back what it renders and to end; returns at once."""
        self._stopping.set()

    def join(self, timeout_seconds: float) -> None:
        """Waits for its end."""
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        self._renderer.remove_leftovers()
        while not self._stopping.is_set():
            try:
                claim = self._service.claim(self._worker_id)
            # Whatever a database or its driver raises while it is away, or before it has its tables.
            except Exception as error:  # noqa: BLE001
                logger.warning("no previews while the database is away: %s: %s", type(error).__name__, error)
                self._stopping.wait(_RETRY_SECONDS)
                continue
            if claim is None:
                self._stopping.wait(POLL_SECONDS)
            else:
                with hide_secrets(claim.secrets.values()):
                    self._render(claim)

    def _render(self, claim: PreviewClaim) -> None:
        started_at = time.monotonic()
        lease = _Lease(self._service, claim, self._stopping)
        try:
            rendered = self._renderer.render(claim, check=lease.check)
        except _Stopped:
            self._hand_back(claim)
            return
        except _Lost:
            logger.warning("%s was given to another worker", claim.preview_id)
            return
        # The thread must outlive whatever one preview brings up.
        except Exception as error:
            logger.exception("%s failed", claim.preview_id)
            rendered = Rendered(error=JobError("internal_error", f"the worker failed: {type(error).__name__}"))
        self._finish(claim, rendered)
        logger.info("%s took %.1f s", claim.preview_id, time.monotonic() - started_at)

    def _finish(self, claim: PreviewClaim, rendered: Rendered) -> None:
        """While the database is away it tries again; when that is too long, another worker renders the preview."""
        for _ in range(_FINISH_ATTEMPTS):
            try:
                if rendered.result is not None:
                    self._service.succeed(claim.preview_id, claim.attempt, rendered.result)
                else:
                    error = rendered.error or JobError("internal_error", "the worker gave no reason")
                    self._service.fail(claim.preview_id, claim.attempt, error)
                return
            # Whatever a database or its driver raises while it is away.
            except Exception as error:  # noqa: BLE001
                logger.warning("the end of %s is not written yet: %s", claim.preview_id, error)
                self._stopping.wait(_RETRY_SECONDS)

    def _hand_back(self, claim: PreviewClaim) -> None:
        try:
            self._service.release(claim.preview_id, claim.attempt)
        # A worker must be able to stop while the database is away: the lease runs out then.
        except Exception as error:  # noqa: BLE001
            logger.warning("%s is not handed back: %s", claim.preview_id, error)


class _Stopped(Exception):
    """The worker is going down."""


class _Lost(Exception):
    """The preview is another worker's."""


class _Lease:
    """Keeps the lease of one preview while it is rendered."""

    def __init__(self, service: PreviewService, claim: PreviewClaim, stopping: threading.Event) -> None:
        self._service = service
        self._claim = claim
        self._stopping = stopping
        self._renew_at = time.monotonic() + LEASE_SECONDS / 3

    def check(self) -> None:
        """Renews the lease when it is due. Raises _Stopped, _Lost."""
        if self._stopping.is_set():
            raise _Stopped
        if time.monotonic() < self._renew_at:
            return
        self._renew_at = time.monotonic() + LEASE_SECONDS / 3
        try:
            is_ours = self._service.renew(self._claim.preview_id, self._claim.attempt)
        # The database is away: if the lease runs out meanwhile, the fence keeps what we write from counting.
        except Exception as error:  # noqa: BLE001
            logger.warning("the lease of %s is not renewed: %s", self._claim.preview_id, error)
            return
        if not is_ours:
            raise _Lost
