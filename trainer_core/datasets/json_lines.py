"""Writing of rows as JSON Lines, all or nothing."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from trainer_core.errors import DataError
from trainer_core.types import JsonValue


def write_rows(path: Path, rows: Iterable[JsonValue]) -> int:
    """Writes one JSON document a line, UTF-8, as `write_lines` does, and returns how many.

    Raises DataError naming a row that JSON or Unicode cannot hold, and OSError.
    """
    return write_lines(path, (_encode(row, number=number) for number, row in enumerate(rows, start=1)))


def write_lines(path: Path, lines: Iterable[bytes]) -> int:
    """Writes lines, given without their ends, and returns how many.

    Creates the folder. The file appears whole, by rename, or not at all. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    num_lines = 0
    try:
        with partial.open("wb") as file:
            for line in lines:
                file.write(line + b"\n")
                num_lines += 1
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return num_lines


def _encode(row: JsonValue, *, number: int) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"row {number} of the data cannot be stored as JSON: {error}") from error
