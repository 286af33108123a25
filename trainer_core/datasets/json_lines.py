"""Writing of rows as JSON Lines, all or nothing."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from trainer_core.errors import DataError
from trainer_core.types import JsonValue


def write_rows(path: Path, rows: Iterable[JsonValue]) -> int:
    """Writes one JSON document a line, UTF-8, and returns how many.

    Creates the folder. The file appears whole, by rename, or not at all. Raises DataError naming a row that JSON or
    Unicode cannot hold, and OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    num_rows = 0
    try:
        with partial.open("wb") as file:
            for num_rows, row in enumerate(rows, start=1):
                file.write(_encode(row, number=num_rows) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return num_rows


def _encode(row: JsonValue, *, number: int) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        raise DataError(f"row {number} of the data cannot be stored as JSON: {error}") from error
