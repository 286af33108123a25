"""A log that cannot be written ends nothing."""

import io
from pathlib import Path

from app.log_stream import LogStream


def test_a_line_that_finds_no_room_is_dropped():
    with Path("/dev/full").open("wb", buffering=0) as full:
        stream = LogStream(io.TextIOWrapper(full, write_through=True))
        for _ in range(3):
            assert stream.write("a line\n") == 7
            stream.flush()


def test_a_line_that_finds_room_is_written(tmp_path):
    with (tmp_path / "log").open("w") as file:
        stream = LogStream(file)
        stream.write("a line\n")
        stream.flush()
        assert (tmp_path / "log").read_text() == "a line\n"
