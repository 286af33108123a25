"""Uploads: every line is looked at, wherever the chunks were cut."""

import pytest

from app.files.jsonl import MAX_LINE_BYTES, MAX_PROBLEMS, JsonLinesCheck
from app.jobs.errors import InvalidSubmission
from tests.support.installation import CoreInstallation


def check(content: bytes, *, chunk_bytes: int = 5) -> JsonLinesCheck:
    checked = JsonLinesCheck()
    chunks = [content[start : start + chunk_bytes] for start in range(0, len(content), chunk_bytes)]
    assert b"".join(checked.watch(chunks)) == content
    return checked


@pytest.mark.parametrize("chunk_bytes", [1, 3, 7, 1000])
@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n  \n"])
def test_good_lines_are_counted_however_they_arrive(chunk_bytes: int, end: bytes) -> None:
    checked = check('{"text": "größe"}\n{"b": 1}'.encode() + end, chunk_bytes=chunk_bytes)
    assert (checked.problems, checked.num_samples, checked.first_row_keys) == ([], 2, ("text",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b'{"a": 1}\n[1]\n', "line 2 is a JSON array"),
        (b'{"a": 1}\n"x"\n', "line 2 is a JSON string"),
        (b'{"a": 1}\n{"a"\n', "line 2 is not JSON"),
        (b'{"a": NaN}\n', "line 1 cannot be read: NaN"),
        (b'{"a": 1}\n\n{"a": 1}\n', "line 2 is blank"),
        (b'\xef\xbb\xbf{"a": 1}\n', "line 1 begins with a byte order mark"),
        (b'{"a": "\xff"}\n', "line 1 is not UTF-8"),
        (b'{"a": "\\ud800"}\n', "line 1 contains half of a surrogate pair"),
        (b"[" * 100_000, "line 1 cannot be read"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "line 1 cannot be read"),
    ],
)
def test_bad_lines_are_named(content: bytes, message: str) -> None:
    assert message in check(content, chunk_bytes=4096).problems[0].message


def test_surrogate_pairs_are_characters() -> None:
    assert check(b'{"a": "\\ud83d\\ude00"}').problems == []


def test_reading_stops_after_ten_problems() -> None:
    checked = JsonLinesCheck()
    num_chunks = len(list(checked.watch([b"x\n"] * 100)))
    assert (len(checked.problems), num_chunks) == (MAX_PROBLEMS, MAX_PROBLEMS)


def test_endless_line_is_not_gathered_in_memory() -> None:
    checked = JsonLinesCheck()
    chunk = b"x" * (1 << 20)
    assert len(list(checked.watch([chunk] * 100))) == MAX_LINE_BYTES // len(chunk) + 1
    assert "longer" in checked.problems[0].message


def test_refused_upload_leaves_nothing(core: CoreInstallation) -> None:
    with pytest.raises(InvalidSubmission, match="line 2"):
        core.upload('{"a": 1}', "nonsense")
    assert core.storage.list("files") == []
    assert core.files.list("ann", after=None, limit=1).data == []


def test_too_large_upload_is_refused(core: CoreInstallation) -> None:
    core.files._max_bytes = 10  # the real limit is 8 GiB
    with pytest.raises(InvalidSubmission, match="larger than 10 bytes"):
        core.upload('{"text": "more than ten"}')
    assert core.storage.list("files") == []


def test_unknown_purpose_is_refused(core: CoreInstallation) -> None:
    with pytest.raises(InvalidSubmission, match="purpose"):
        core.files.create("ann", "a.jsonl", "assistants", [b"{}"])


@pytest.mark.parametrize(
    ("given", "kept"), [("../../etc/passwd", "passwd"), ("C:\\x\\a.jsonl", "a.jsonl"), ("", "upload.jsonl")]
)
def test_filename_is_only_a_name(core: CoreInstallation, given: str, kept: str) -> None:
    file = core.files.create("ann", given, "fine-tune", [b'{"a": 1}'])
    assert file.filename == kept
    assert core.files.open("ann", file.id).read() == b'{"a": 1}'
