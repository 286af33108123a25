"""Sends stored content: whole or by ranges, in chunks, with its digest as ETag (RFC 9110, sections 13 and 14)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.errors import RangeNotSatisfiable
from app.storage import Storage

# More digits than any content has would be refused by int(), which stops at some thousand of them.
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)


class Sendable(Protocol):
    """Bytes that can be read from any place on."""

    @property
    def filename(self) -> str:
        """What a browser calls the download."""
        ...

    @property
    def media_type(self) -> str:
        """Of the bytes."""
        ...

    @property
    def num_bytes(self) -> int:
        """How many there are now."""
        ...

    @property
    def etag(self) -> str | None:
        """Changes when the bytes do; None where they may change at any moment."""
        ...

    def read(self, storage: Storage, start: int, length: int) -> Iterator[bytes]:
        """Yields bytes start … start + length − 1 in chunks."""
        ...


@dataclass(frozen=True)
class Content:
    """Something that lies in storage and never changes under its key."""

    storage_key: str
    filename: str
    num_bytes: int
    sha256: str
    media_type: str = "application/octet-stream"

    @property
    def etag(self) -> str:
        """The digest."""
        return f'"{self.sha256}"'

    def read(self, storage: Storage, start: int, length: int) -> Iterator[bytes]:
        """Out of the one file."""
        return storage.read_range(self.storage_key, start, length)


def send_content(request: Request, storage: Storage, content: Sendable) -> Response:
    """Answers 200, 206, 304, or raises RangeNotSatisfiable. HEAD gets the headers alone.

    One range is served; several (and ranges that make no sense) get the whole, as the protocol allows.
    """
    etag, num_bytes = content.etag, content.num_bytes
    headers = {
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": f"attachment; filename*=utf-8''{quote(content.filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    if etag is not None:
        headers["etag"] = etag
        if _matches(request.headers.get("if-none-match"), etag):
            return Response(status_code=304, headers=headers)
    part = _parse_range(request, etag, num_bytes)
    start, length = part or (0, num_bytes)
    status = 200
    if part is not None:
        status = 206
        headers["content-range"] = f"bytes {start}-{start + length - 1}/{num_bytes}"
    headers["content-length"] = str(length)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=content.media_type)
    chunks = _open_now(content.read(storage, start, length))
    return StreamingResponse(chunks, status_code=status, headers=headers, media_type=content.media_type)


def _open_now(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Reads the first chunk before the answer begins: what is not there is an error, not a cut-off download."""
    first = next(chunks, b"")

    def iterate() -> Iterator[bytes]:
        yield first
        yield from chunks

    return iterate()


def _matches(header: str | None, etag: str) -> bool:
    if header is None:
        return False
    return header.strip() == "*" or etag in [part.strip().removeprefix("W/") for part in header.split(",")]


def _parse_range(request: Request, etag: str | None, num_bytes: int) -> tuple[int, int] | None:
    """Returns start and length; None for the whole."""
    header = request.headers.get("range")
    condition = request.headers.get("if-range")
    if header is None or (condition is not None and condition.strip() != etag):
        return None
    match = _RANGE.fullmatch(header)
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        start, end = max(num_bytes - int(last), 0), num_bytes
    else:
        start, end = int(first), min(int(last) + 1, num_bytes) if last else num_bytes
        if last and int(last) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(num_bytes)
    return start, end - start
