"""Files and artifacts by key, in a folder or in any store that fsspec knows."""

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Written:
    num_bytes: int
    sha256: str


class InvalidKey(ValueError):
    """A storage key that is empty, absolute or climbs out of the root; a programming error, never a user's."""


class Storage:
    """A store below one URL. A file appears whole under its key or not at all; an existing one is replaced.

    Reading a key that is not there raises FileNotFoundError.
    """

    def __init__(self, url: str) -> None:
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def put_file(self, local: Path, key: str) -> None:
        """Stores a local file. In a folder storage a hard link where possible: do not change `local` in place later."""
        path = self._path(key)
        if not self._is_local:
            self._fs.put_file(str(local), path)
            return
        temporary = self._make_temporary(path)
        try:
            try:
                os.link(local, temporary)
            except OSError:
                shutil.copyfile(local, temporary)
                _sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def write(self, key: str, chunks: Iterable[bytes]) -> Written:
        """Stores what `chunks` yields; an exception it raises leaves nothing under the key."""
        path = self._path(key)
        if self._is_local:
            return self._write_local(path, chunks)
        # Not every store can break an upload off: it begins when all is there.
        with tempfile.NamedTemporaryFile(prefix="finesmith-") as spooled:
            written = _copy(chunks, cast(BinaryIO, spooled))
            spooled.flush()
            self._fs.put_file(spooled.name, path)
        return written

    def fetch_file(self, key: str, local: Path) -> None:
        """Copies a stored file to `local`, whose folder is made; never a link, so that `local` may be changed."""
        local.parent.mkdir(parents=True, exist_ok=True)
        temporary = local.with_name(f".{local.name}.{secrets.token_hex(8)}")
        try:
            with self.open(key) as source, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, CHUNK_BYTES)
            os.replace(temporary, local)
        finally:
            temporary.unlink(missing_ok=True)

    def open(self, key: str) -> BinaryIO:
        """The stored file, open for reading; the caller closes it."""
        return cast(BinaryIO, self._fs.open(self._path(key), "rb"))

    def read_range(self, key: str, start: int, length: int) -> Iterator[bytes]:
        """Yields bytes start … start + length − 1 in chunks; fewer where the file ends before."""
        with self.open(key) as stream:
            stream.seek(start)
            while length > 0 and (chunk := stream.read(min(length, CHUNK_BYTES))):
                length -= len(chunk)
                yield chunk

    def size(self, key: str) -> int:
        """Size in bytes."""
        return int(self._fs.size(self._path(key)))

    def exists(self, key: str) -> bool:
        """True when a file lies under the key."""
        return bool(self._fs.isfile(self._path(key)))

    def delete(self, key: str) -> None:
        """Removes a file; nothing happens when it is not there."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def delete_prefix(self, prefix: str) -> None:
        """Removes every file below a folder of keys; nothing happens when there is none."""
        with suppress(FileNotFoundError):
            self._fs.rm(self._path(prefix.rstrip("/")), recursive=True)

    def list(self, prefix: str) -> list[str]:
        """The keys below a folder of keys, sorted."""
        path = self._path(prefix.rstrip("/"))
        self._fs.invalidate_cache(path)
        found = [str(name) for name in self._fs.find(path)]
        keys = (name.removeprefix(self._root).lstrip("/") for name in found)
        return sorted(key for key in keys if not PurePosixPath(key).name.startswith(".part-"))

    def _path(self, key: str) -> str:
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or ".." in parts or "\\" in key or "\0" in key:
            raise InvalidKey(f"not a storage key: {key!r}")
        return f"{self._root}/{key}"

    def _write_local(self, path: str, chunks: Iterable[bytes]) -> Written:
        temporary = self._make_temporary(path)
        try:
            with temporary.open("wb") as stream:
                written = _copy(chunks, cast(BinaryIO, stream))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return written

    @staticmethod
    def _make_temporary(path: str) -> Path:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.with_name(f".part-{secrets.token_hex(8)}")


def _copy(chunks: Iterable[bytes], stream: BinaryIO) -> Written:
    digest, num_bytes = hashlib.sha256(), 0
    for chunk in chunks:
        stream.write(chunk)
        digest.update(chunk)
        num_bytes += len(chunk)
    return Written(num_bytes=num_bytes, sha256=digest.hexdigest())


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
