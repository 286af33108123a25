"""A job's whole output as text, out of the pieces in storage: by ranges, and never whole in memory."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from app.jobs.views import LogPiece, WholeLog
from app.storage import Storage

LOST = b"[these lines are no longer in storage]"


@dataclass(frozen=True)
class LogText:
    """The pieces one after another."""

    job_id: str
    log: WholeLog
    media_type: str = "text/plain"

    @property
    def filename(self) -> str:
        """What a browser calls the download."""
        return f"{self.job_id}.log"

    @cached_property
    def num_bytes(self) -> int:
        """Of all that is stored now."""
        return sum(piece.num_bytes for piece in self.log.pieces)

    @cached_property
    def etag(self) -> str | None:
        """Of which pieces it consists; None while the job may print more."""
        if not self.log.is_final:
            return None
        digest = sha256()
        for piece in self.log.pieces:
            digest.update(f"{piece.storage_key} {piece.attempt} {piece.first_line} {piece.num_bytes}\n".encode())
        return f'"{digest.hexdigest()}"'

    def read(self, storage: Storage, start: int, length: int) -> Iterator[bytes]:
        """Opens only the pieces that the range touches, one at a time."""
        position, end = 0, start + length
        for piece in self.log.pieces:
            first, last = max(start, position), min(end, position + piece.num_bytes)
            if first < last:
                yield from _read_piece(storage, piece, first - position, last - first)
            position += piece.num_bytes


def _read_piece(storage: Storage, piece: LogPiece, start: int, length: int) -> Iterator[bytes]:
    """A piece that is gone leaves as many bytes, so that the rest stays where it was."""
    left = length
    try:
        for chunk in storage.read_range(piece.storage_key, start, length):
            left -= len(chunk)
            yield chunk
    except FileNotFoundError:
        pass
    if left:
        text = LOST[: piece.num_bytes - 1].ljust(piece.num_bytes - 1) + b"\n"
        yield text[start + length - left : start + length]
