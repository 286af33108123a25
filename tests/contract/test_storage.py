"""One contract for a folder and an S3 store: whole files or none, whatever the key, whoever else is at it."""

import errno
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings
from app.storage import DamagedContent, InvalidKey, Storage, StorageUnavailable, Written, hash_file
from tests.support.object_store import run_object_store

ODD_KEYS = (
    "a b/c+d/e&f=g/h%20i",
    "ä/日本/😀.txt",
    "x[1]/*?.bin",
    "q?version=7#frag",
    "~user/.hidden/-rf",
    "a:b::c/{d}/'e\"f",
    "deep/" * 30 + "leaf",
)


@pytest.fixture(scope="module")
def bucket_url() -> Iterator[str]:
    with run_object_store() as url:
        yield url


@pytest.fixture(params=["folder", "memory", "s3"])
def open_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Storage]:
    """Opens the same store again and again, as several processes would."""
    if request.param == "folder":
        return lambda: Storage(str(tmp_path / "store"))
    if request.param == "memory":
        memory_url = f"memory://{uuid.uuid4().hex}"
        return lambda: Storage(memory_url)
    url = f"{request.getfixturevalue('bucket_url')}/{uuid.uuid4().hex}/deeper"
    return lambda: Storage(url, options={"skip_instance_cache": True})


@pytest.fixture
def storage(open_storage: Callable[[], Storage]) -> Storage:
    return open_storage()


def write_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_written_bytes_are_read_back_whole_and_in_part(storage: Storage) -> None:
    written = storage.write("a/b", [b"hello ", b"world"])
    assert (written.num_bytes, written.sha256) == (11, sha256(b"hello world").hexdigest())
    with storage.open("a/b") as stream:
        assert stream.read() == b"hello world"
    assert storage.read("a/b") == b"hello world"
    assert b"".join(storage.read_range("a/b", 6, 3)) == b"wor"
    assert b"".join(storage.read_range("a/b", 9, 100)) == b"ld"
    assert b"".join(storage.read_range("a/b", 11, 5)) == b""
    assert (storage.size("a/b"), storage.exists("a/b"), storage.exists("a"), storage.exists("c")) == (
        *(11, True),
        *(False, False),
    )


def test_an_empty_file_is_a_file(storage: Storage, tmp_path: Path) -> None:
    assert storage.write("empty", []).num_bytes == 0
    assert (storage.exists("empty"), storage.size("empty"), storage.read("empty")) == (True, 0, b"")
    assert storage.fetch_file("empty", tmp_path / "local").num_bytes == 0


def test_a_write_that_fails_leaves_what_was_there(storage: Storage) -> None:
    storage.write("f/a", [b"old"])

    def fail() -> Iterator[bytes]:
        yield b"new"
        raise ValueError("broken off")

    for key in ("f/a", "f/b"):
        with pytest.raises(ValueError, match="broken off"):
            storage.write(key, fail())
    assert (storage.read("f/a"), storage.list("f")) == (b"old", ["f/a"])


def test_files_go_in_and_come_out_as_copies(storage: Storage, tmp_path: Path) -> None:
    source, target = write_file(tmp_path / "source", b"content"), tmp_path / "deep" / "target"
    expected = Written(7, sha256(b"content").hexdigest())
    assert storage.put_file(source, "x/y/z", expected=expected) == expected
    assert storage.fetch_file("x/y/z", target, expected=expected) == expected
    target.write_bytes(b"changed")
    assert storage.read("x/y/z") == b"content"


def test_a_file_that_is_not_what_was_recorded_is_never_stored(storage: Storage, tmp_path: Path) -> None:
    storage.write("kept", [b"before"])
    source = write_file(tmp_path / "source", b"contenT")
    for wrong in (Written(7, sha256(b"content").hexdigest()), Written(8, sha256(b"contenT").hexdigest())):
        with pytest.raises(DamagedContent, match="source is damaged"):
            storage.put_file(source, "kept", expected=wrong)
    assert storage.read("kept") == b"before"


def test_a_damaged_file_is_never_fetched(storage: Storage, tmp_path: Path) -> None:
    storage.write("f", [b"content"])
    target = write_file(tmp_path / "target", b"before")
    with pytest.raises(DamagedContent, match="target is damaged"):
        storage.fetch_file("f", target, expected=Written(7, "0" * 64))
    assert target.read_bytes() == b"before"
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".part-")]


def test_what_is_not_there_is_said_to_be_missing(storage: Storage, tmp_path: Path) -> None:
    storage.write("there/file", [b"x"])
    for act in (storage.open, storage.size, storage.read, lambda key: storage.fetch_file(key, tmp_path / "t")):
        with pytest.raises(FileNotFoundError):
            act("nothing")
    with pytest.raises(FileNotFoundError):
        storage.size("there")
    storage.delete("nothing")
    storage.delete_prefix("nothing")
    assert storage.list("nothing") == []


def test_a_prefix_is_deleted_and_nothing_beside_it(storage: Storage) -> None:
    for key in ("jobs/1/a", "jobs/1/b/c", "jobs/1/b/[x]*", "jobs/11/a", "jobs/2", "jobs/2x"):
        storage.write(key, [b"x"])
    assert storage.list("jobs/1") == ["jobs/1/a", "jobs/1/b/[x]*", "jobs/1/b/c"]
    storage.delete_prefix("jobs/1")
    storage.delete_prefix("jobs/2")
    assert storage.list("jobs") == ["jobs/11/a", "jobs/2x"]
    storage.delete("jobs/2x")
    assert storage.list("jobs") == ["jobs/11/a"]


@pytest.mark.parametrize("key", ODD_KEYS, ids=range(len(ODD_KEYS)))
def test_odd_keys_are_keys_like_others(storage: Storage, tmp_path: Path, key: str) -> None:
    storage.write(key, [b"odd"])
    storage.write(f"{key}.other", [b"other"])
    assert (storage.exists(key), storage.size(key), storage.read(key)) == (True, 3, b"odd")
    storage.fetch_file(key, tmp_path / "local")
    storage.put_file(tmp_path / "local", key)
    assert key in storage.list(key.split("/")[0])
    storage.delete(key)
    assert (storage.exists(key), storage.read(f"{key}.other")) == (False, b"other")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a/..", "a\0b", "a\\b", "a?versionId=1"])
def test_keys_that_climb_out_are_refused(storage: Storage, key: str) -> None:
    with pytest.raises(InvalidKey):
        storage.open(key)


def test_what_one_process_writes_another_sees_at_once(open_storage: Callable[[], Storage]) -> None:
    one, other = open_storage(), open_storage()
    for number in range(3):
        assert len(other.list("f")) == number
        assert not other.exists(f"f/{number}")
        one.write(f"f/{number}", [b"first"])
        assert other.read(f"f/{number}") == b"first"
        one.write(f"f/{number}", [b"second!"])
        assert (other.size(f"f/{number}"), other.read(f"f/{number}")) == (7, b"second!")


def test_readers_beside_writers_of_one_key_see_whole_files_only(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    versions = [bytes([number]) * 100_000 for number in range(4)]
    storage.write("shared", [versions[0]])

    def write(content: bytes) -> None:
        for _ in range(5):
            storage.write("shared", [content[:50_000], content[50_000:]])

    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(write, content) for content in versions]
        readers = [pool.submit(storage.read, "shared") for _ in range(40)]
        assert all(reader.result() in versions for reader in readers)
        for writer in writers:
            writer.result()
    assert os.listdir(tmp_path) == ["shared"]


def test_many_threads_use_one_store(storage: Storage) -> None:
    def go(number: int) -> bytes:
        content = bytes([number]) * 10_000
        storage.write(f"many/{number}", [content])
        assert f"many/{number}" in storage.list("many")
        return storage.read(f"many/{number}")

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(go, range(24))) == [bytes([number]) * 10_000 for number in range(24)]


@pytest.mark.slow
def test_a_large_file_goes_in_parts_and_comes_back_by_ranges(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "large"
    with source.open("wb") as stream:
        for number in range(27):
            stream.write(os.urandom(1 << 22) if number % 9 == 0 else bytes([number]) * (1 << 22))
    written = storage.put_file(source, "large", expected=hash_file(source))
    assert storage.size("large") == written.num_bytes == 27 << 22
    with source.open("rb") as stream:
        stream.seek((50 << 20) - 7)
        assert b"".join(storage.read_range("large", (50 << 20) - 7, 14)) == stream.read(14)
    storage.fetch_file("large", tmp_path / "back", expected=written)


def test_leftovers_of_uploads_are_found_and_removed(open_storage: Callable[[], Storage], tmp_path: Path) -> None:
    storage = open_storage()
    storage.write("f/whole", [b"x"])
    num_leftovers = 0 if "Memory" in type(storage._fs).__name__ else 1
    if storage._is_local:
        (tmp_path / "store" / "f" / ".part-0123").write_bytes(b"half")
    elif hasattr(storage._fs, "call_s3"):
        bucket, _, prefix = storage._root.partition("/")
        storage._fs.call_s3("create_multipart_upload", Bucket=bucket, Key=f"{prefix}/f/half")
        storage._fs.call_s3("create_multipart_upload", Bucket=bucket, Key="somebody-else-s")
    assert storage.list("f") == ["f/whole"]
    # The test's server dates every upload to 2010.
    assert storage.remove_unfinished_uploads(older_than_seconds=1e10) == 0
    assert storage.remove_unfinished_uploads(older_than_seconds=0) == num_leftovers
    assert storage.remove_unfinished_uploads(older_than_seconds=0) == 0
    assert storage.read("f/whole") == b"x"


@pytest.fixture
def failing_storage(bucket_url: str) -> tuple[Storage, list[str]]:
    """An S3 store of which the calls that the list names fail."""
    import fsspec
    from s3fs import S3FileSystem

    failing: list[str] = []

    class FailingS3(S3FileSystem):  # type: ignore[misc]
        protocol = ("failings3",)

        async def _call_s3(self, method: str, *args: object, **kwargs: object) -> object:
            if method in failing:
                raise OSError(errno.EIO, f"{method} failed")
            return await super()._call_s3(method, *args, **kwargs)

    fsspec.register_implementation("failings3", FailingS3, clobber=True)
    url = bucket_url.replace("s3://", "failings3://")
    return Storage(f"{url}/{uuid.uuid4().hex}", options={"skip_instance_cache": True}), failing


@pytest.mark.slow
def test_a_store_that_fails_in_mid_upload_keeps_what_it_had_and_no_parts(
    failing_storage: tuple[Storage, list[str]], tmp_path: Path
) -> None:
    storage, failing = failing_storage
    storage.write("f", [b"old"])
    source = tmp_path / "large"
    with source.open("wb") as stream:
        stream.truncate(110 << 20)
    for method in ("upload_part", "complete_multipart_upload"):
        failing[:] = [method]
        with pytest.raises(OSError, match=f"{method} failed"):
            storage.put_file(source, "f")
        failing.clear()
        assert storage.read("f") == b"old"
        assert storage.remove_unfinished_uploads(older_than_seconds=0) == 0


def test_a_store_that_does_not_answer_is_an_os_error() -> None:
    options = {"endpoint_url": "http://127.0.0.1:1", "key": "k", "secret": "s", "skip_instance_cache": True}
    storage = Storage("s3://bucket", options={**options, "config_kwargs": {"retries": {"max_attempts": 0}}})
    storage._fs.retries = 1
    for act in (storage.read, storage.exists, storage.size, storage.list, storage.delete):
        with pytest.raises(StorageUnavailable, match="the storage failed"):
            act("f")
    with pytest.raises(StorageUnavailable):
        storage.write("f", [b"x"])


def test_the_options_of_the_store_are_a_setting_that_is_not_shown(tmp_path: Path, bucket_url: str) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    options = f'{{"endpoint_url": "{endpoint}", "key": "access", "secret": "hidden", "skip_instance_cache": true}}'
    settings = Settings(data_dir=tmp_path, storage_url=f"{bucket_url}/by-options", storage_options=options)
    assert "hidden" not in repr(settings)
    assert Storage.of(settings).write("f", [b"x"]).num_bytes == 1
    for wrong in ("[1]", "{", "words"):
        with pytest.raises(ValidationError, match="storage_options must be one JSON object"):
            Settings(data_dir=tmp_path, storage_options=wrong)
