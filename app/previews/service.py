"""The only writer of previews: asked for by owners, rendered by workers, kept moving by the reconciler."""

from collections.abc import Mapping

from pydantic import JsonValue
from pydantic_core import to_json
from sqlalchemy import Connection

from app.db.session import SessionFactory, snapshot, transaction
from app.ids import new_id
from app.jobs import records
from app.jobs.errors import InvalidSubmission
from app.jobs.named_secrets import seal_given
from app.jobs.storable import make_storable, make_text_storable
from app.jobs.views import JobError
from app.jobs.workers import WorkerService
from app.previews import repository
from app.previews.checks import check_preview
from app.previews.errors import PreviewNotFound, TooManyPreviews
from app.previews.views import PreviewClaim, PreviewRequest, PreviewStatus, PreviewView
from app.secrets.cipher import UnreadableSecret, build_cipher
from app.settings import Settings

LEASE_SECONDS = 30.0
"""A preview whose worker is silent for so long is rendered again."""
QUEUE_SECONDS = 600.0
"""A preview that no worker has taken for so long has failed."""
KEPT_SECONDS = 24 * 3600.0
MAX_FAILURES = 2
MAX_UNFINISHED = 20
"""Of one owner: a worker renders one at a time."""
MAX_RESULT_BYTES = 8 << 20

_NOT_TAKEN = JobError(
    "no_worker",
    f"no worker has taken the preview within {QUEUE_SECONDS:.0f} s; GET /v1/workers tells which are online",
)
_WORKER_LOST = JobError("worker_lost", f"the worker that rendered the preview was lost {MAX_FAILURES} times")


class PreviewService:
    """Every method is one transaction; safe to use from any number of threads and processes.

    Workers look for waiting previews by themselves, so that no wake-up can be lost.
    """

    def __init__(self, sessions: SessionFactory, *, settings: Settings) -> None:
        self._sessions = sessions
        self._settings = settings
        self._workers = WorkerService(sessions, live_seconds=settings.lease_seconds)
        self._cipher = build_cipher(settings, "preview-secrets")
        self._named_secret_cipher = build_cipher(settings, "named-secrets")

    def create(self, owner: str, request: PreviewRequest) -> PreviewView:
        """Stores a preview for a worker to render. Raises InvalidSubmission with every problem, TooManyPreviews."""
        installation = self._workers.current_installation()
        with snapshot(self._sessions) as connection:
            checked = check_preview(connection, owner, request, installation=installation, settings=self._settings)
        if checked.problems:
            raise InvalidSubmission(checked.problems)
        preview_id = new_id("preview")
        values = {
            "id": preview_id,
            "owner": owner,
            "file_id": request.file_id,
            "num_samples": request.num_samples,
            "config": dict(checked.values),
            "required_keys": dict(checked.required_keys),
        }
        sealed = seal_given(self._cipher, checked.secrets, scope_id=preview_id, named_cipher=self._named_secret_cipher)
        with transaction(self._sessions) as connection:
            num_unfinished = repository.count_unfinished(connection, owner=owner)
            if num_unfinished >= MAX_UNFINISHED:
                raise TooManyPreviews(num_unfinished)
            return repository.insert_preview(connection, values, sealed=sealed)

    def get(self, owner: str, preview_id: str) -> PreviewView:
        """The preview. Raises PreviewNotFound."""
        with snapshot(self._sessions) as connection:
            preview = repository.find_preview(connection, preview_id, owner=owner)
        if preview is None:
            raise PreviewNotFound(preview_id)
        return preview

    def get_status(self, owner: str, preview_id: str) -> PreviewStatus:
        """The preview's state, for those who wait. Raises PreviewNotFound."""
        with snapshot(self._sessions) as connection:
            status = repository.find_status(connection, preview_id, owner=owner)
        if status is None:
            raise PreviewNotFound(preview_id)
        return status

    def claim(self, worker_id: str) -> PreviewClaim | None:
        """Takes the oldest waiting preview that this worker can render; None when there is none."""
        with snapshot(self._sessions) as connection:
            candidates = repository.list_candidates(connection, worker_id=worker_id)
        for preview_id in candidates:
            with transaction(self._sessions) as connection:
                claim = self._take(connection, preview_id, worker_id)
            if claim is not None:
                return claim
        return None

    def renew(self, preview_id: str, attempt: int) -> bool:
        """Extends the lease from now; False when the preview is no longer this attempt's."""
        with transaction(self._sessions) as connection:
            return repository.renew(connection, preview_id, attempt=attempt, lease_seconds=LEASE_SECONDS)

    def succeed(self, preview_id: str, attempt: int, result: Mapping[str, JsonValue]) -> bool:
        """Ends a preview with what was rendered; False when it is no longer this attempt's.

        A result over its limit makes the preview fail.
        """
        storable = {make_text_storable(name): make_storable(value) for name, value in result.items()}
        num_bytes = len(to_json(storable))
        if num_bytes > MAX_RESULT_BYTES:
            message = f"the preview has {num_bytes} bytes, more than {MAX_RESULT_BYTES}; ask for fewer samples with n"
            return self.fail(preview_id, attempt, JobError("preview_too_large", message, param="n"))
        with transaction(self._sessions) as connection:
            return repository.finish(connection, preview_id, attempt=attempt, result=storable)

    def fail(self, preview_id: str, attempt: int, error: JobError) -> bool:
        """Ends a preview with an error; False when it is no longer this attempt's."""
        clean = JobError(
            make_text_storable(error.code),
            make_text_storable(error.message),
            param=None if error.param is None else make_text_storable(error.param),
        )
        with transaction(self._sessions) as connection:
            return repository.finish(connection, preview_id, attempt=attempt, error=clean)

    def release(self, preview_id: str, attempt: int) -> None:
        """Makes a preview wait for another worker: this one stops. Counts as no failure."""
        with transaction(self._sessions) as connection:
            repository.release(connection, preview_id, attempt=attempt)

    def reconcile(self) -> None:
        """Takes back what a lost worker had, fails what nobody took, forgets what is older than a day."""
        with snapshot(self._sessions) as connection:
            if not repository.has_overdue(connection, queue_seconds=QUEUE_SECONDS, kept_seconds=KEPT_SECONDS):
                return
        with transaction(self._sessions) as connection:
            repository.expire(
                connection,
                queue_seconds=QUEUE_SECONDS,
                kept_seconds=KEPT_SECONDS,
                max_failures=MAX_FAILURES,
                not_taken=_NOT_TAKEN,
                worker_lost=_WORKER_LOST,
            )

    def _take(self, connection: Connection, preview_id: str, worker_id: str) -> PreviewClaim | None:
        row = repository.take(connection, preview_id, worker_id=worker_id, lease_seconds=LEASE_SECONDS)
        if row is None:
            return None
        file = records.find_file_refs(connection, owner=row["owner"], file_ids=[row["file_id"]]).get(row["file_id"])
        if file is None:
            error = JobError("file_not_found", f"file: {row['file_id']} was deleted before it was rendered", "file")
            repository.finish(connection, preview_id, attempt=row["attempt"], error=error)
            return None
        try:
            sealed = repository.list_secrets(connection, preview_id)
            secrets = {secret.field: self._cipher.open(preview_id, secret) for secret in sealed}
        except UnreadableSecret as unreadable:
            error = JobError("secret_unreadable", f"{unreadable}; ask for the preview again")
            repository.finish(connection, preview_id, attempt=row["attempt"], error=error)
            return None
        return PreviewClaim(
            preview_id=preview_id,
            owner=row["owner"],
            attempt=row["attempt"],
            config=row["config"],
            secrets=secrets,
            file=file,
            num_rows=repository.count_rows(connection, file.id),
            num_samples=row["num_samples"],
        )
