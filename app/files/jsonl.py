"""Checks JSON lines while they stream by, a chunk at a time."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import NoReturn

from app.files.formats import find_foreign_content
from app.jobs.errors import Problem

MAX_LINE_BYTES = 16 << 20
MAX_PROBLEMS = 10
_MAX_ROW_KEYS = 100
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# An escaped surrogate: a pair is a character, a single one is nothing that a tokenizer takes.
_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonLinesCheck:
    """Passes chunks on unchanged and looks at every line: a JSON object in UTF-8, at most 16 MiB long.

    Blank lines are allowed at the end of the file only. `problems` names lines from 1, at most ten of them.
    """

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.num_samples = 0
        self.first_row_keys: tuple[str, ...] = ()
        self._line = 0
        self._blank_line: int | None = None

    def watch(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yields the chunks; ends early after ten problems or a line that is too long."""
        rest = b""
        is_first = True
        for chunk in chunks:
            yield chunk
            if is_first and (fault := find_foreign_content(chunk)) is not None:
                self.problems.append(Problem(fault, "file", "invalid_format"))
                return
            is_first = is_first and not chunk
            *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else ([rest + chunk])
            for line in lines:
                self._check_line(line)
                if len(self.problems) >= MAX_PROBLEMS:
                    return
            if len(rest) > MAX_LINE_BYTES:
                self._report(f"is longer than {MAX_LINE_BYTES} bytes", line=self._line + 1)
                return
        if rest:
            self._check_line(rest)
        if self.num_samples == 0 and not self.problems:
            self.problems.append(Problem("the file is empty", "file", "empty_file"))

    def _check_line(self, line: bytes) -> None:
        self._line += 1
        if not line.strip():
            self._blank_line = self._blank_line or self._line
            return
        if self._blank_line is not None:
            self._report("is blank", line=self._blank_line)
            self._blank_line = None
        if self._line == 1 and line.startswith(_BYTE_ORDER_MARK):
            self._report("begins with a byte order mark; save the file as UTF-8 without one")
            return
        try:
            row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
            if _ESCAPED_SURROGATE.search(line):
                json.dumps(row, ensure_ascii=False).encode("utf-8")
        except UnicodeDecodeError as error:
            self._report(f"is not UTF-8 (byte {error.start})")
        except UnicodeEncodeError:
            self._report("contains half of a surrogate pair")
        except json.JSONDecodeError as error:
            self._report(f"is not JSON: {error.msg} at column {error.colno}")
        except (ValueError, RecursionError) as error:
            self._report(f"cannot be read: {error}")
        else:
            self._keep(row)

    def _keep(self, row: object) -> None:
        if not isinstance(row, dict):
            self._report(f"is a JSON {_NAMES.get(type(row), 'value')}, not an object")
            return
        if self.num_samples == 0:
            self.first_row_keys = tuple(row)[:_MAX_ROW_KEYS]
        self.num_samples += 1

    def _report(self, fault: str, *, line: int | None = None) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(f"line {line or self._line} {fault}", "file", "invalid_json_line"))


_NAMES = {list: "array", str: "string", int: "number", float: "number", bool: "boolean", type(None): "null"}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
