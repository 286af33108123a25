"""Storage: whole files or none, in a folder and in a store of fsspec."""

import uuid
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from app.storage import InvalidKey, Storage


@pytest.fixture(params=["folder", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return Storage(str(tmp_path / "store") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def test_written_bytes_are_read_back_whole_and_in_part(storage: Storage) -> None:
    written = storage.write("a/b", [b"hello ", b"world"])
    assert (written.num_bytes, written.sha256) == (11, sha256(b"hello world").hexdigest())
    with storage.open("a/b") as stream:
        assert stream.read() == b"hello world"
    assert b"".join(storage.read_range("a/b", 6, 3)) == b"wor"
    assert b"".join(storage.read_range("a/b", 9, 100)) == b"ld"
    assert (storage.size("a/b"), storage.exists("a/b"), storage.exists("a")) == (11, True, False)


def test_write_that_fails_leaves_what_was_there(storage: Storage) -> None:
    storage.write("f/a", [b"old"])

    def fail() -> Iterator[bytes]:
        yield b"new"
        raise ValueError("broken off")

    with pytest.raises(ValueError, match="broken off"):
        storage.write("f/a", fail())
    with storage.open("f/a") as stream:
        assert stream.read() == b"old"
    assert storage.list("f") == ["f/a"]


def test_files_go_in_and_come_out(storage: Storage, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "target"
    source.write_bytes(b"content")
    storage.put_file(source, "x/y/z")
    storage.fetch_file("x/y/z", target)
    target.write_bytes(b"changed")
    with storage.open("x/y/z") as stream:
        assert stream.read() == b"content"


def test_list_and_delete(storage: Storage) -> None:
    for key in ("jobs/1/a", "jobs/1/b/c", "jobs/2/a"):
        storage.write(key, [b"x"])
    assert storage.list("jobs/1") == ["jobs/1/a", "jobs/1/b/c"]
    storage.delete_prefix("jobs/1")
    assert storage.list("jobs") == ["jobs/2/a"]
    storage.delete("jobs/2/a")
    storage.delete("jobs/2/a")
    storage.delete_prefix("jobs/7")
    assert storage.list("jobs/2") == []
    with pytest.raises(FileNotFoundError):
        storage.open("jobs/2/a")


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a\0b", "a\\b"])
def test_keys_that_climb_out_are_refused(storage: Storage, key: str) -> None:
    with pytest.raises(InvalidKey):
        storage.open(key)
