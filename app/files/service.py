"""Uploaded data sets: stored while they are checked, and kept while a job needs them."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import PurePath
from typing import BinaryIO

from sqlalchemy import Connection

from app.db.session import SessionFactory, snapshot, transaction
from app.files import repository
from app.files.formats import find_foreign_name
from app.files.jsonl import JsonLinesCheck
from app.files.views import FileView
from app.ids import new_id
from app.jobs.errors import FileInUse, FileNotFound, IdempotencyConflict, InvalidSubmission, Problem
from app.jobs.removals import Removal, postpone_removal, schedule_removal, withdraw_removal
from app.jobs.repository import find_unfinished_user_of_file
from app.jobs.storable import make_text_storable
from app.jobs.views import Page
from app.settings import Settings
from app.storage import Storage, StorageUnavailable

PURPOSES = ("fine-tune",)
UPLOAD_SECONDS = 24 * 3600.0
"""The longest that an upload may take: what it has written by then is removed."""
_MAX_FILENAME_CHARS = 255


class FileService:
    """Files are their owner's; nobody else sees that they exist."""

    def __init__(self, sessions: SessionFactory, storage: Storage, settings: Settings) -> None:
        self._sessions = sessions
        self._storage = storage
        self._max_bytes = settings.max_upload_bytes

    def create(
        self,
        owner: str,
        filename: str,
        purpose: str,
        chunks: Iterable[bytes],
        *,
        idempotency_key: str | None = None,
        max_bytes: int | None = None,
    ) -> FileView:
        """Stores JSON lines as they come in, and checks every line. Nothing is kept of a file that is refused.

        The same content under an idempotency key that was used before is the earlier file. `max_bytes` None: the
        installation's limit. Raises InvalidSubmission naming the lines that are no JSON objects, and for an empty,
        too large or binary file; IdempotencyConflict.
        """
        if purpose not in PURPOSES:
            message = f"purpose: {purpose!r} is unknown; use {PURPOSES[0]!r}"
            raise InvalidSubmission([Problem(message, "purpose", "invalid_value")])
        if (fault := find_foreign_name(filename)) is not None:
            raise InvalidSubmission([Problem(fault, "file", "invalid_format")])
        file_id = new_id("file")
        key = f"files/{file_id}"
        check = JsonLinesCheck()
        # Committed before the first byte is written: whatever dies from here on leaves nothing behind for long.
        with transaction(self._sessions) as connection:
            removal = schedule_removal(connection, key, after_seconds=UPLOAD_SECONDS)
        try:
            most = self._max_bytes if max_bytes is None else max_bytes
            written = self._storage.write(key, self._pass_valid(chunks, check, most))
            file = FileView(
                id=file_id,
                filename=_clean_filename(filename),
                purpose=purpose,
                num_bytes=written.num_bytes,
                num_samples=check.num_samples,
                sha256=written.sha256,
                storage_key=key,
                created_at=0.0,
            )
            row_keys = tuple(make_text_storable(name) for name in check.first_row_keys)
            with transaction(self._sessions) as connection:
                stored = repository.insert_file(
                    connection, file, owner=owner, row_keys=row_keys, idempotency_key=idempotency_key
                )
                if stored is not None and not withdraw_removal(connection, removal):
                    raise StorageUnavailable(TimeoutError("the upload took too long: its bytes are removed"))
                known = stored or _find_earlier(connection, file, owner=owner, idempotency_key=idempotency_key)
        except (InvalidSubmission, IdempotencyConflict, OSError):
            self._discard(removal)
            raise
        if stored is None:
            self._discard(removal)
        return known

    def get(self, owner: str, file_id: str) -> FileView:
        """The file. Raises FileNotFound."""
        with snapshot(self._sessions) as connection:
            file = repository.find_file(connection, file_id, owner=owner)
        if file is None:
            raise FileNotFound(file_id)
        return file

    def list(self, owner: str, *, after: str | None, limit: int) -> Page[FileView]:
        """Files, newest first, from the next older than the id `after`."""
        with snapshot(self._sessions) as connection:
            files = repository.list_files(connection, owner=owner, after=after, limit=limit + 1)
        return Page(files[:limit], has_more=len(files) > limit)

    def delete(self, owner: str, file_id: str) -> FileView:
        """Removes the file; returns what it was. Raises FileNotFound, FileInUse while an unfinished job needs it."""
        with transaction(self._sessions) as connection:
            file = repository.find_file(connection, file_id, owner=owner, lock=True)
            if file is None:
                raise FileNotFound(file_id)
            if job_id := find_unfinished_user_of_file(connection, file_id, owner=owner):
                raise FileInUse(file_id, job_id)
            repository.delete_file(connection, file_id, owner=owner)
            schedule_removal(connection, file.storage_key)
        with suppress(OSError):
            self._storage.delete(file.storage_key)
        return file

    def open(self, owner: str, file_id: str) -> BinaryIO:
        """The content, to be closed by the caller. Raises FileNotFound."""
        return self._storage.open(self.get(owner, file_id).storage_key)

    def _discard(self, removal: Removal) -> None:
        with transaction(self._sessions) as connection:
            postpone_removal(connection, removal, seconds=0.0)
        with suppress(OSError):
            self._storage.delete(removal.storage_key)

    def _pass_valid(self, chunks: Iterable[bytes], check: JsonLinesCheck, max_bytes: int) -> Iterator[bytes]:
        """Passes chunks on; raising in here makes the storage forget what it has of the file."""
        num_bytes = 0
        for chunk in check.watch(chunks):
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                message = f"the file is larger than {max_bytes} bytes"
                raise InvalidSubmission([Problem(message, "file", "file_too_large")])
            yield chunk
        if check.problems:
            raise InvalidSubmission(check.problems)


def _find_earlier(connection: Connection, file: FileView, *, owner: str, idempotency_key: str | None) -> FileView:
    """The file of an earlier upload under the key. Raises IdempotencyConflict when it had another content."""
    earlier = None if idempotency_key is None else repository.find_file_of_key(connection, idempotency_key, owner=owner)
    if earlier is None or (earlier.sha256, earlier.purpose) != (file.sha256, file.purpose):
        raise IdempotencyConflict(idempotency_key or "")
    return earlier


def _clean_filename(filename: str) -> str:
    """The last part of the name that the client gave; it is shown, never used as a path."""
    name = PurePath(make_text_storable(filename).replace("\\", "/")).name
    return name[:_MAX_FILENAME_CHARS] or "upload.jsonl"
