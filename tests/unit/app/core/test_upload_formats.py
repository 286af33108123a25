"""Uploads that are no JSON lines are named for what they are, and nothing of them is kept."""

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from app.files.formats import find_foreign_name
from app.jobs.errors import InvalidSubmission
from tests.support.installation import open_installation


def make_zip() -> bytes:
    """2 MB of nothing in 2 kB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.jsonl", b"\0" * (2 << 20))
    return file.getvalue()


def make_tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("../../rows.jsonl"))
    return file.getvalue()


CONTENTS = [
    (make_zip(), "a zip archive"),
    (make_tar(), "a tar archive"),
    (gzip.compress(b'{"text": "a"}\n'), "compressed by gzip"),
    (pickle.dumps({"text": "a"}), "a Python pickle"),
    (b"PAR1\x15\x04", "Parquet"),
    (b"\x93NUMPY\x01\x00", "a NumPy array"),
    ('{"text": "a"}\n'.encode("utf-16"), "text in UTF-16"),
]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory):
    from app.db.migrate import upgrade

    with open_installation(tmp_path_factory.mktemp("uploads")) as core:
        upgrade(core.settings.database_url)
        yield core


@pytest.mark.parametrize(("content", "what"), CONTENTS, ids=[what for _, what in CONTENTS])
def test_a_binary_upload_is_told_for_what_it_is_and_not_kept(core, content: bytes, what: str) -> None:
    with pytest.raises(InvalidSubmission) as caught:
        core.files.create("anna", "rows.jsonl", "fine-tune", [content])
    [problem] = caught.value.problems
    assert (problem.param, problem.code) == ("file", "invalid_format")
    assert what in problem.message
    assert "JSON lines" in problem.message
    assert core.storage.list("files") == []


@pytest.mark.parametrize("name", ["model.bin", "a.PT", "x.pth", "y.ckpt", "z.pkl", "C:\\data\\rows.zip", "r.jsonl.gz"])
def test_a_name_of_weights_or_an_archive_is_refused_before_anything_is_read(core, name: str) -> None:
    def never() -> None:
        raise AssertionError("was read")
        yield b""

    with pytest.raises(InvalidSubmission, match="JSON lines"):
        core.files.create("anna", name, "fine-tune", never())


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows", "rows.txt", "rows.bin.jsonl", ".jsonl", ""])
def test_other_names_are_fine(name: str) -> None:
    assert find_foreign_name(name) is None


BOMBS = [
    (b'{"a":' * 200_000 + b"1" + b"}" * 200_000, "cannot be read"),
    (b'{"a": ' + b"9" * 5000 + b"}", "cannot be read"),
    (b'{"a": 1e999}', None),
    (b'{"a": NaN}', "NaN is not JSON"),
    (b'{"a": "\xff"}', "is not UTF-8"),
]


@pytest.mark.parametrize(("line", "fault"), BOMBS, ids=["deep", "huge number", "infinite", "nan", "bytes"])
def test_a_line_that_is_made_to_harm_is_an_error_of_its_line(core, line: bytes, fault: str | None) -> None:
    if fault is None:
        assert core.files.create("anna", "rows.jsonl", "fine-tune", [line]).num_samples == 1
        return
    with pytest.raises(InvalidSubmission) as caught:
        core.files.create("anna", "rows.jsonl", "fine-tune", [line])
    assert "line 1" in caught.value.problems[0].message
    assert fault in caught.value.problems[0].message


def test_a_path_in_a_name_is_never_used(core, tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "..\\..\\x", "a\0b", "‮lnosj.swor", "x" * 5000):
        file = core.files.create("anna", name, "fine-tune", [b'{"text": "a"}\n'])
        assert "/" not in file.filename
        assert "\\" not in file.filename
        assert "\0" not in file.filename
        assert len(file.filename) <= 255
        assert file.storage_key == f"files/{file.id}"
