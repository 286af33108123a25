"""A JSON Lines file as a sequence of rows that stay on disk until they are asked for."""

import json
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from trainer_core.errors import DataError
from trainer_core.types import RawSample

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


NUM_FAULTS_TOLD = 10


def describe_faults(faults: Sequence[str], *, num_faults: int, num_rows: int) -> str:
    """One sentence for one bad row, else a line for each that is told."""
    if num_faults == 1:
        return faults[0]
    told = f"; the first {len(faults)}" if num_faults > len(faults) else ""
    return "\n".join([f"{num_faults} of {num_rows} rows cannot be used{told}:", *faults])


class LineError(DataError):
    """A line that is no row; raised where rows are read."""

    def __init__(self, reason: str, *, label: str, line_number: int) -> None:
        super().__init__(f"{label} line {line_number}: {reason}")
        self.reason = reason
        self.label = label
        self.line_number = line_number
        """From 1."""

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.reason, self.label, self.line_number)


def _rebuild(cls: type[LineError], reason: str, label: str, line_number: int) -> LineError:
    return cls(reason, label=label, line_number=line_number)


class RowsOnDisk(Sequence[RawSample]):
    """The rows of a file, 24 bytes of memory each; blank lines are no rows.

    The file is opened for every access, so that a copy of this object in another process shares nothing with this one.
    """

    def __init__(self, path: Path, *, label: str | None = None) -> None:
        """Reads the file once to find its lines. Raises OSError for a file that cannot be read.

        `label` is what errors call the file; None: its name.
        """
        self.path = path
        self._label = label or path.name
        self._starts = array("Q")
        self._ends = array("Q")
        self._line_numbers = array("Q")
        position = 0
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                start = position + (len(BYTE_ORDER_MARK) if number == 1 and line.startswith(BYTE_ORDER_MARK) else 0)
                position += len(line)
                if line[start - position :].strip():
                    self._starts.append(start)
                    self._ends.append(position)
                    self._line_numbers.append(number)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> RawSample: ...

    @overload
    def __getitem__(self, index: slice) -> list[RawSample]: ...

    def __getitem__(self, index: int | slice) -> RawSample | list[RawSample]:
        """Raises LineError naming the line that is not JSON."""
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        row: RawSample = self._parse(self.read_line(index), index)
        return row

    def __iter__(self) -> Iterator[RawSample]:
        for index, line in self._iterate_lines():
            yield self._parse(line, index)

    def _iterate_lines(self) -> Iterator[tuple[int, bytes]]:
        with self.path.open("rb") as file:
            for index, (start, end) in enumerate(zip(self._starts, self._ends, strict=True)):
                file.seek(start)
                yield index, file.read(end - start)

    def read_line(self, index: int) -> bytes:
        """The bytes of a row as they stand in the file."""
        start, end = self._starts[index], self._ends[index]
        with self.path.open("rb") as file:
            file.seek(start)
            return file.read(end - start)

    def check(self) -> None:
        """Raises DataError naming the lines that are not JSON: the first ten, and how many there are."""
        faults = []
        num_faults = 0
        for index, line in self._iterate_lines():
            try:
                self._parse(line, index)
            except LineError as error:
                num_faults += 1
                if num_faults <= NUM_FAULTS_TOLD:
                    faults.append(error.message)
        if faults:
            raise DataError(describe_faults(faults, num_faults=num_faults, num_rows=len(self)))

    def get_line_number(self, index: int) -> int:
        """The line, from 1, on which a row stands."""
        return self._line_numbers[index]

    def _parse(self, line: bytes, index: int) -> Any:
        try:
            row = json.loads(line.decode())
            if SURROGATE_ESCAPE.search(line):
                json.dumps(row, ensure_ascii=False).encode()
        except (ValueError, RecursionError) as error:
            number = self.get_line_number(index)
            raise LineError(_describe_fault(error), label=self._label, line_number=number) from error
        return row


def _describe_fault(error: ValueError | RecursionError) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "holds half of a surrogate pair, which is no character"
    if isinstance(error, RecursionError):
        return "not JSON that can be read: it is nested too deeply"
    return f"not {'UTF-8' if isinstance(error, UnicodeDecodeError) else 'JSON'}: {error}"
