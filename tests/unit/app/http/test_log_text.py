"""A log as text: its ranges are those of all pieces laid end to end, and only the pieces in question are read."""

import itertools
from pathlib import Path

import pytest

from app.api.log_text import LOST, LogText
from app.jobs.views import LogPiece, WholeLog
from app.storage import Storage

TEXTS = [b"one\ntwo\n", b"three\n", b"f\xc3\xbcnf\n" * 30, b"six\n"]
WHOLE = b"".join(TEXTS)


class CountingStorage(Storage):
    """Remembers which keys were read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.read_keys: list[str] = []

    def open(self, key: str):
        self.read_keys.append(key)
        return super().open(key)


@pytest.fixture
def storage(tmp_path: Path) -> CountingStorage:
    storage = CountingStorage(str(tmp_path))
    for number, text in enumerate(TEXTS):
        storage.write(f"logs/{number}", [text])
    return storage


def build_log(*, is_final: bool = True) -> LogText:
    pieces = [LogPiece(number // 2 + 1, 1, len(text), f"logs/{number}") for number, text in enumerate(TEXTS)]
    return LogText("job-1", WholeLog(tuple(pieces), is_final=is_final))


def test_every_range_is_that_of_the_whole(storage):
    log = build_log()
    assert log.num_bytes == len(WHOLE)
    for start, end in itertools.combinations(range(0, len(WHOLE) + 1, 3), 2):
        assert b"".join(log.read(storage, start, end - start)) == WHOLE[start:end]


def test_only_the_pieces_of_the_range_are_opened(storage):
    assert b"".join(build_log().read(storage, 9, 3)) == WHOLE[9:12]
    assert storage.read_keys == ["logs/1"]


def test_a_piece_that_is_gone_leaves_its_place(storage):
    storage.delete("logs/2")
    storage.delete("logs/3")
    read = b"".join(build_log().read(storage, 0, len(WHOLE)))
    assert len(read) == len(WHOLE)
    assert read.startswith(TEXTS[0] + TEXTS[1] + LOST)
    assert read.endswith(b"\n[th\n")
    assert b"".join(build_log().read(storage, 20, 30)) == read[20:50]


def test_the_etag_changes_with_the_pieces_and_a_running_job_has_none(storage):
    log = build_log()
    shorter = LogText("job-1", WholeLog(log.log.pieces[:-1], is_final=True))
    assert log.etag == build_log().etag != shorter.etag
    assert build_log(is_final=False).etag is None
