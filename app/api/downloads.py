"""Sends stored content: whole or by ranges, in chunks, with its digest as ETag (RFC 9110, sections 13 and 14)."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.errors import RangeNotSatisfiable
from app.storage import Storage

# More digits than any content has would be refused by int(), which stops at some thousand of them.
_RANGE = re.compile(r"\s*bytes\s*=\s*([0-9]{0,18})\s*-\s*([0-9]{0,18})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Content:
    """Something that lies in storage and never changes under its key."""

    storage_key: str
    filename: str
    num_bytes: int
    sha256: str
    media_type: str = "application/octet-stream"


def send_content(request: Request, storage: Storage, content: Content) -> Response:
    """Answers 200, 206, 304, or raises RangeNotSatisfiable. HEAD gets the headers alone.

    One range is served; several (and ranges that make no sense) get the whole, as the protocol allows.
    """
    etag = f'"{content.sha256}"'
    headers = {
        "etag": etag,
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
        "content-disposition": f"attachment; filename*=utf-8''{quote(content.filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    if _matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    part = _parse_range(request, etag, content.num_bytes)
    start, length = part or (0, content.num_bytes)
    status = 200
    if part is not None:
        status = 206
        headers["content-range"] = f"bytes {start}-{start + length - 1}/{content.num_bytes}"
    headers["content-length"] = str(length)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=content.media_type)
    chunks = _open_now(storage.read_range(content.storage_key, start, length))
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


def _parse_range(request: Request, etag: str, num_bytes: int) -> tuple[int, int] | None:
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
