"""Data sets on the service: upload, look up, download, delete."""

import os
import uuid
from pathlib import Path

from finesmith.download import Source, download_file
from finesmith.errors import ConfigurationError
from finesmith.models.file import File
from finesmith.models.page import Page
from finesmith.pages import ListQuery, fetch_page
from finesmith.paths import api_path
from finesmith.transport import Call, Transport
from finesmith.wire import decode

UPLOAD_READ_TIMEOUT_SECONDS = 600.0
"""The service answers an upload only after it has checked every line."""


class Files:
    """`client.files`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def upload(self, path: str | os.PathLike[str], *, purpose: str = "fine-tune") -> File:
        """Sends the JSON Lines file at `path` without ever holding it in memory.

        Tried again after a broken connection; if only the answer was lost, that makes no second copy.
        Raises OSError if the file cannot be read, UnprocessableEntityError or BadRequestError naming the line if a line
        is no JSON object, PayloadTooLargeError.
        """
        call = Call(
            "POST",
            api_path("files"),
            headers={"Idempotency-Key": uuid.uuid4().hex},
            upload=Path(path),
            form={"purpose": purpose},
            read_timeout_seconds=UPLOAD_READ_TIMEOUT_SECONDS,
        )
        return decode(File, self._transport.send(call))

    def get(self, file_id: str) -> File:
        """Looks one file up; raises NotFoundError."""
        return decode(File, self._transport.send(Call("GET", api_path("files", file_id))))

    def list(self, *, limit: int | None = None, after: str | None = None) -> Page[File]:
        """A page of at most `limit` files, after the one with the id `after`; iterating it goes on to the others."""
        params = {} if limit is None else {"limit": limit}
        query = ListQuery(api_path("files"), File, params=params).starting_after(after)
        return fetch_page(self._transport, query)

    def delete(self, file_id: str) -> None:
        """Deletes the file; raises ConflictError while a job needs it, and NotFoundError, also if a first try whose
        answer was lost did it."""
        self._transport.send(Call("DELETE", api_path("files", file_id)))

    def download(self, file_id: str, path: str | os.PathLike[str]) -> Path:
        """Writes the file's content to `path` (into it under its own name, if it is a folder); returns where it lies.

        Resumed after a cut connection, checked, and there under its name only when complete.
        """
        file = self.get(file_id)
        target = Path(path)
        if target.is_dir():
            name = Path(file.filename.replace("\\", "/")).name
            if not name.isprintable() or name in ("", ".", ".."):
                raise ConfigurationError(f"{file_id} has no usable name of its own: give the path of a file.")
            target = target / name
        source = Source(
            api_path("files", file_id, "content"),
            label=file_id,
            tag=file_id,
            num_bytes=file.bytes,
            sha256=file.sha256,
        )
        download_file(self._transport, source, target)
        return target
