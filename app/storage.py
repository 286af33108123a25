"""Files and artifacts by key, in a folder or in any store that fsspec knows."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Self, cast

import fsspec
from fsspec.core import has_magic
from fsspec.implementations.local import LocalFileSystem

from app.settings import Settings

CHUNK_BYTES = 1 << 20
_READ_AHEAD_BYTES = 8 << 20
"""What one request to a remote store fetches; its library's default of 50 MiB is held in memory for every download."""
_DELETE_BATCH = 500


@dataclass(frozen=True, slots=True)
class Written:
    num_bytes: int
    sha256: str


class InvalidKey(ValueError):
    """A storage key that is empty, absolute or climbs out of the root; a programming error, never a user's."""


class DamagedContent(Exception):
    """A file is not what was expected of it: its size or its sha256 differ. Nothing was stored or fetched of it."""

    def __init__(self, name: str, *, found: Written, expected: Written) -> None:
        what = "its sha256 differs" if found.num_bytes == expected.num_bytes else f"it has {found.num_bytes} bytes"
        super().__init__(f"{name} is damaged: {what} (expected {expected.num_bytes} bytes, {expected.sha256})")
        self.name = name


class StorageUnavailable(OSError):
    """The store does not answer, or refuses us; what its library raises beside OSError becomes this."""

    def __init__(self, error: Exception) -> None:
        super().__init__(errno.EIO, f"the storage failed: {type(error).__name__}: {error}")


class Storage:
    """A store below one URL. A file appears whole under its key or not at all; an existing one is replaced.

    Reading a key that is not there raises FileNotFoundError; whatever else goes wrong is an OSError.
    """

    def __init__(self, url: str, *, options: Mapping[str, Any] | None = None) -> None:
        """`options` go to fsspec's file system of the URL's scheme."""
        # Other processes write here too: a remembered listing would hide what they wrote.
        self._fs, root = fsspec.core.url_to_fs(url, **{"use_listings_cache": False, **(options or {})})
        self._root = str(root).rstrip("/")
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self._errors = _list_foreign_errors(self._fs)

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The storage of an installation."""
        text = settings.storage_options.get_secret_value()
        return cls(settings.storage_url, options=json.loads(text) if text else None)

    def put_file(self, local: Path, key: str, *, expected: Written | None = None) -> Written:
        """Stores a local file; returns what it holds. Raises DamagedContent when that is not what is expected of it.

        In a folder storage a hard link where possible: do not change `local` in place later.
        """
        path = self._path(key)
        if self._is_local:
            return self._put_local(local, path, expected=expected)
        before = local.stat()
        written = hash_file(local)
        _compare(local.name, found=written, expected=expected)
        with self._translated():
            self._fs.put_file(str(local), path)
        after = local.stat()
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            self.delete(key)
            raise DamagedContent(local.name, found=hash_file(local), expected=written)
        return written

    def write(self, key: str, chunks: Iterable[bytes]) -> Written:
        """Stores what `chunks` yields; an exception it raises leaves nothing under the key."""
        path = self._path(key)
        if self._is_local:
            return self._write_local(path, chunks)
        # Not every store can break an upload off: it begins when all is there.
        with tempfile.NamedTemporaryFile(prefix="finesmith-") as spooled:
            written = _copy(chunks, cast(BinaryIO, spooled))
            spooled.flush()
            with self._translated():
                self._fs.put_file(spooled.name, path)
        return written

    def fetch_file(self, key: str, local: Path, *, expected: Written | None = None) -> Written:
        """Copies a stored file to `local`, whose folder is made; never a link, so that `local` may be changed.

        Raises DamagedContent, leaving `local` as it was, when the copy is not what is expected.
        """
        local.parent.mkdir(parents=True, exist_ok=True)
        temporary = local.with_name(f".part-{secrets.token_hex(8)}")
        try:
            with temporary.open("wb") as target:
                written = _copy(self.read_range(key, 0, None), cast(BinaryIO, target))
            _compare(local.name, found=written, expected=expected)
            os.replace(temporary, local)
        finally:
            temporary.unlink(missing_ok=True)
        return written

    def open(self, key: str) -> BinaryIO:
        """The stored file, open for reading; the caller closes it."""
        with self._translated():
            if self._is_local:
                return cast(BinaryIO, self._fs.open(self._path(key), "rb"))
            return cast(BinaryIO, self._fs.open(self._path(key), "rb", block_size=_READ_AHEAD_BYTES))

    def read(self, key: str) -> bytes:
        """The whole of a small file."""
        return b"".join(self.read_range(key, 0, None))

    def read_range(self, key: str, start: int, length: int | None) -> Iterator[bytes]:
        """Yields bytes start … start + length − 1 in chunks; fewer where the file ends before, all with None."""
        with self.open(key) as stream:
            with self._translated():
                stream.seek(start)
            while length is None or length > 0:
                with self._translated():
                    chunk = stream.read(CHUNK_BYTES if length is None else min(length, CHUNK_BYTES))
                if not chunk:
                    return
                length = None if length is None else length - len(chunk)
                yield chunk

    def size(self, key: str) -> int:
        """Size in bytes."""
        with self._translated():
            found = self._fs.info(self._path(key))
        if found["type"] != "file":
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), key)
        return int(found["size"])

    def exists(self, key: str) -> bool:
        """True when a file lies under the key."""
        # Not fsspec's isfile, which says no as well when the store does not answer.
        try:
            self.size(key)
        except FileNotFoundError:
            return False
        return True

    def delete(self, key: str) -> None:
        """Removes a file; nothing happens when it is not there."""
        with suppress(FileNotFoundError), self._translated():
            self._fs.rm_file(self._path(key))

    def delete_prefix(self, prefix: str) -> None:
        """Removes every file below a folder of keys, or the file of that name; nothing happens when there is none."""
        path = self._path(prefix.rstrip("/"))
        if self._is_local:
            with suppress(FileNotFoundError):
                self._fs.rm(path, recursive=True)
            return
        with self._translated():
            names = [str(name) for name in self._fs.find(path)]
            # What looks like a pattern would be expanded, and delete more or nothing.
            plain = [name for name in names if not has_magic(name)]
            for start in range(0, len(plain), _DELETE_BATCH):
                with suppress(FileNotFoundError):
                    self._fs.rm(plain[start : start + _DELETE_BATCH])
            for name in set(names) - set(plain):
                with suppress(FileNotFoundError):
                    self._fs.rm_file(name)

    def list(self, prefix: str) -> list[str]:
        """The keys below a folder of keys, sorted."""
        path = self._path(prefix.rstrip("/"))
        with self._translated():
            found = [str(name) for name in self._fs.find(path)]
        keys = (name.removeprefix(self._root).lstrip("/") for name in found)
        return sorted(key for key in keys if not PurePosixPath(key).name.startswith(".part-"))

    def remove_unfinished_uploads(self, *, older_than_seconds: float) -> int:
        """Removes the parts that killed processes left of uploads; returns of how many. They are in no listing."""
        if self._is_local:
            return sum(_remove_old_parts(Path(self._root), older_than_seconds=older_than_seconds))
        if not hasattr(self._fs, "list_multipart_uploads"):
            return 0
        bucket, _, prefix = self._root.partition("/")
        with self._translated():
            uploads = self._fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/".lstrip("/"))
            now = datetime.now(UTC)
            old = [
                upload
                for upload in uploads.get("Uploads", [])
                if (now - upload["Initiated"]).total_seconds() >= older_than_seconds
            ]
            for upload in old:
                self._fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])
        return len(old)

    def _path(self, key: str) -> str:
        parts = key.split("/")
        if "?versionId=" in key:
            raise InvalidKey(f"S3's library reads a version's number out of the key {key!r}")
        if not key or key.startswith("/") or ".." in parts or "\\" in key or "\0" in key:
            raise InvalidKey(f"not a storage key: {key!r}")
        return f"{self._root}/{key}"

    def _translated(self) -> AbstractContextManager[None]:
        return _translate(self._errors) if self._errors else nullcontext()

    def _put_local(self, local: Path, path: str, *, expected: Written | None) -> Written:
        temporary = self._make_temporary(path)
        try:
            try:
                os.link(local, temporary)
            except OSError:
                shutil.copyfile(local, temporary)
                _sync(temporary)
            written = hash_file(temporary)
            _compare(local.name, found=written, expected=expected)
            os.replace(temporary, path)
            _sync(Path(path).parent)
        finally:
            temporary.unlink(missing_ok=True)
        return written

    def _write_local(self, path: str, chunks: Iterable[bytes]) -> Written:
        temporary = self._make_temporary(path)
        try:
            with temporary.open("wb") as stream:
                written = _copy(chunks, cast(BinaryIO, stream))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            # A row in the database that names the file must not outlive the name on a host that loses its power.
            _sync(Path(path).parent)
        finally:
            temporary.unlink(missing_ok=True)
        return written

    @staticmethod
    def _make_temporary(path: str) -> Path:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target.with_name(f".part-{secrets.token_hex(8)}")


def hash_file(path: Path) -> Written:
    """Size and sha256 of a local file."""
    digest, num_bytes = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    return Written(num_bytes=num_bytes, sha256=digest.hexdigest())


def _compare(name: str, *, found: Written, expected: Written | None) -> None:
    if expected is not None and found != expected:
        raise DamagedContent(name, found=found, expected=expected)


def _copy(chunks: Iterable[bytes], stream: BinaryIO) -> Written:
    digest, num_bytes = hashlib.sha256(), 0
    for chunk in chunks:
        stream.write(chunk)
        digest.update(chunk)
        num_bytes += len(chunk)
    return Written(num_bytes=num_bytes, sha256=digest.hexdigest())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_old_parts(root: Path, *, older_than_seconds: float) -> Iterator[int]:
    for part in root.rglob(".part-*"):
        with suppress(OSError):
            if datetime.now(UTC).timestamp() - part.stat().st_mtime >= older_than_seconds:
                part.unlink()
                yield 1


def _list_foreign_errors(fs: object) -> tuple[type[Exception], ...]:
    """What the store's library raises that is no OSError."""
    if not type(fs).__module__.startswith("s3fs"):
        return ()
    # Only who keeps files in S3 has it installed.
    from botocore.exceptions import BotoCoreError

    return (BotoCoreError,)


@contextmanager
def _translate(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise StorageUnavailable(error) from error
