"""Writing of an entry, chunk by chunk: what is in memory is one chunk."""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trainer_core.tokenized.encoding import EncodedChunk
from trainer_core.tokenized.entry import INPUT_IDS, IS_TARGET, OFFSETS, EntryFacts, FileFacts, save_facts


class EntryWriter:
    """Appends rows in order; `finish` makes the folder an entry. The folder must be there and empty.

    Nothing is flushed to the disk by force: what a power cut takes is seen by its hash.
    """

    def __init__(self, folder: Path) -> None:
        """Raises OSError, as all methods do."""
        self._folder = folder
        self._files = {name: _HashedFile(folder / name) for name in (INPUT_IDS, IS_TARGET, OFFSETS)}
        self._files[OFFSETS].write(np.zeros(1, dtype=np.int64))
        self._num_tokens = 0
        self._num_target_tokens = 0
        self.num_rows = 0
        """Rows written so far."""

    def append(self, chunk: EncodedChunk) -> None:
        """Writes the tokens of the rows that follow."""
        self._files[INPUT_IDS].write(chunk.input_ids)
        self._files[IS_TARGET].write(chunk.is_target)
        self._files[OFFSETS].write(self._num_tokens + np.cumsum(chunk.lengths, dtype=np.int64))
        self._num_tokens += len(chunk.input_ids)
        self._num_target_tokens += int(np.count_nonzero(chunk.is_target))
        self.num_rows += len(chunk.lengths)

    def finish(self) -> None:
        """Closes the files and writes what they hold."""
        self._close()
        facts = EntryFacts(
            num_rows=self.num_rows,
            num_tokens=self._num_tokens,
            num_target_tokens=self._num_target_tokens,
            files={name: file.get_facts() for name, file in self._files.items()},
        )
        save_facts(self._folder, facts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close()

    def _close(self) -> None:
        for file in self._files.values():
            file.close()


class _HashedFile:
    """A new file that knows the hash of what was written."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self._num_bytes = 0

    def write(self, values: NDArray[Any]) -> None:
        content = np.ascontiguousarray(values).data.cast("B")
        self._file.write(content)
        self._hash.update(content)
        self._num_bytes += content.nbytes

    def get_facts(self) -> FileFacts:
        return FileFacts(num_bytes=self._num_bytes, sha256=self._hash.hexdigest())

    def close(self) -> None:
        self._file.close()
