"""The data set of samples that lie in files as tokens."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trainer_core.errors import DataError
from trainer_core.tokenized.entry import INPUT_IDS, IS_TARGET, OFFSETS, EntryFacts, load_facts
from trainer_core.tokenized.key_lock import HeldLock, try_lock
from trainer_core.tokenized.sample import TokenizedSample


class TokenizedRows(Dataset[TokenizedSample]):
    """Samples in the order of their rows, mapped into memory: the system keeps what is read often, and nothing more.

    A copy in another process opens the files anew. While an object lives its files are not removed from the cache.
    """

    def __init__(self, folder: Path, *, lock: HeldLock | None = None, was_cached: bool = True) -> None:
        """Opens an entry. `lock`: the shared lock of it that the caller has; None: it is taken here.

        Raises DataError for a folder that is not a whole entry, and OSError.
        """
        self.folder = folder
        self.was_cached = was_cached
        """Whether the samples were there already, so that nothing had to be tokenised."""
        self._lock = lock or try_lock(folder, shared=True)
        facts = load_facts(folder)
        if facts is None:
            raise DataError(f"{folder} holds no tokenised samples, or is damaged; remove it to have them made anew")
        self.facts: EntryFacts = facts
        self._offsets = _map_file(folder / OFFSETS, dtype=np.int64)
        self._input_ids = _map_file(folder / INPUT_IDS, dtype=np.int32)
        self._is_target = _map_file(folder / IS_TARGET, dtype=np.bool_)
        self._lengths: NDArray[np.int32] | None = None

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each sample; 4 bytes of memory a sample once it was asked for."""
        if self._lengths is None:
            self._lengths = np.diff(self._offsets).astype(np.int32)
        return self._lengths

    @property
    def num_tokens(self) -> int:
        """Tokens of all samples."""
        return self.facts.num_tokens

    @property
    def num_target_tokens(self) -> int:
        """Tokens of all samples that are learned."""
        return self.facts.num_target_tokens

    def __len__(self) -> int:
        return self.facts.num_rows

    def __getitem__(self, index: int) -> TokenizedSample:
        """The arrays are views of the files, and read-only. Raises IndexError."""
        num_rows = self.facts.num_rows
        position = index + num_rows if index < 0 else index
        if not 0 <= position < num_rows:
            raise IndexError(f"sample {index} of {num_rows}")
        start, stop = self._offsets[position], self._offsets[position + 1]
        return TokenizedSample(input_ids=self._input_ids[start:stop], is_target=self._is_target[start:stop])

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self.folder, self.was_cached)


def _reopen(folder: Path, was_cached: bool) -> TokenizedRows:
    return TokenizedRows(folder, was_cached=was_cached)


def _map_file(path: Path, *, dtype: type[np.generic]) -> NDArray[Any]:
    if path.stat().st_size == 0:
        # Nothing cannot be mapped.
        return np.empty(0, dtype=dtype)
    # A plain array over the mapped bytes: slices of numpy's own class of mapped files take ten times as long.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r"))
