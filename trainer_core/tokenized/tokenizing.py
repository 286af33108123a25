"""Tokenising of a whole data set, once for all runs that read the same."""

import logging
import shutil
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from secrets import token_hex

import numpy as np

from trainer_core.collators.base import BaseCollator
from trainer_core.collators.row_check import OnProgress, encodes_samples
from trainer_core.collators.token_collator import TokenCollator
from trainer_core.datasets.base import BaseDataset
from trainer_core.errors import StepInterrupted
from trainer_core.tokenized.cache_folder import get_partial_path, mark_used, prune_token_cache
from trainer_core.tokenized.content_key import compute_content_key
from trainer_core.tokenized.encoding import encode_rows
from trainer_core.tokenized.entry import has_its_bytes, load_facts
from trainer_core.tokenized.entry_writer import EntryWriter
from trainer_core.tokenized.key_lock import try_lock
from trainer_core.tokenized.obstacles import find_obstacle, uses_clock
from trainer_core.tokenized.row_encoding import encode_all
from trainer_core.tokenized.rows import TokenizedRows

POLL_SECONDS = 0.1
NUM_ROWS_COMPARED = 16
"""Of a cached entry, tokenised again and compared: a user's code may depend on what no key can know."""
SECONDS_UNTIL_A_KEY_OF_ITS_OWN = 5.0

ShouldStop = Callable[[], bool]

logger = logging.getLogger(__name__)


def tokenize_rows(
    dataset: BaseDataset,
    collator: BaseCollator,
    *,
    folder: Path,
    num_processes: int | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> TokenizedRows:
    """The samples as tokens: mapped from `folder` where an earlier run left them, else made and left there.

    Of several processes that ask for the same at once, one makes it and the others wait. `num_processes` None: chosen
    by cores and rows; 1: this one alone. `on_progress` is told how many rows are done. Nothing but the finished entry
    stays in the folder; what a killed process left the next call removes, and what was used least recently beyond
    MAX_CACHE_BYTES.

    Raises ValueError where `find_obstacle` has one; RowError, LineError or RowSampleError, a SampleError, for a row
    that cannot be trained on; StepInterrupted within a second of `should_stop`, which is asked again and again; OSError
    for a folder that cannot be written.
    """
    obstacle = find_obstacle(dataset, collator)
    if obstacle is not None or not encodes_samples(collator):
        raise ValueError(f"these samples cannot be tokenised once: {obstacle}")
    work = _Work(dataset, collator, num_processes, on_progress or _ignore, should_stop or _never)
    key = compute_content_key(dataset, collator, date=date.today().isoformat() if uses_clock(collator) else None)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    rows = work.open_or_make(folder / key)
    work.on_progress(len(rows))
    prune_token_cache(folder)
    return rows


class _UnsoundEntry(Exception):
    """An entry that is damaged, or of other samples."""


@dataclass(frozen=True, slots=True)
class _Work:
    """What is asked for."""

    dataset: BaseDataset
    collator: TokenCollator
    num_processes: int | None
    on_progress: OnProgress
    should_stop: ShouldStop

    def open_or_make(self, entry: Path) -> TokenizedRows:
        """The entry, made where it is missing or not what it should be; waits for another process that makes it."""
        is_made = False
        unsound_since: float | None = None
        while True:
            if self.should_stop():
                raise StepInterrupted("stopped before the data were tokenised")
            try:
                rows = self._open(entry, is_made=is_made)
                unsound_since = None
            except _UnsoundEntry:
                rows, unsound_since = None, unsound_since or time.monotonic()
            if rows is not None:
                return rows
            is_made = self._make_if_free(entry)
            if is_made:
                continue
            if unsound_since is not None and time.monotonic() - unsound_since > SECONDS_UNTIL_A_KEY_OF_ITS_OWN:
                # Whoever reads it may go on for days.
                entry, unsound_since = entry.with_name(f"{entry.name}-{token_hex(4)}"), None
            time.sleep(POLL_SECONDS)

    def _open(self, entry: Path, *, is_made: bool) -> TokenizedRows | None:
        """None where there is no entry, also while another process writes it. Raises _UnsoundEntry."""
        lock = try_lock(entry, shared=True)
        if lock is None:
            return None
        if load_facts(entry) is not None:
            rows = TokenizedRows(entry, lock=lock, was_cached=not is_made)
            if is_made or self._is_sound(rows):
                mark_used(entry)
                return rows
        lock.release()
        if entry.exists():
            raise _UnsoundEntry
        return None

    def _make_if_free(self, entry: Path) -> bool:
        """Whether this process made it; not while others read or write it, or when another one has just made it."""
        lock = try_lock(entry, shared=False)
        if lock is None:
            return False
        with lock:
            if load_facts(entry) is not None and self._is_sound(TokenizedRows(entry, lock=lock)):
                return False
            if entry.exists():
                logger.warning("the tokenised samples in %s are not what they should be, and are made anew", entry)
            partial = get_partial_path(entry)
            for leftover in (partial, entry):
                if leftover.exists():
                    shutil.rmtree(leftover)
            partial.mkdir(mode=0o700)
            try:
                self._write(partial)
                partial.rename(entry)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        return True

    def _write(self, folder: Path) -> None:
        chunks = encode_all(self.dataset, self.collator, num_processes=self.num_processes, should_stop=self.should_stop)
        with EntryWriter(folder) as writer, closing(chunks):
            for chunk in chunks:
                writer.append(chunk)
                self.on_progress(writer.num_rows)
            writer.finish()

    def _is_sound(self, rows: TokenizedRows) -> bool:
        """Whether it has its bytes, and some of its rows are what the collator gives now."""
        if len(rows) != len(self.dataset) or not has_its_bytes(rows.folder, rows.facts):
            return False
        indices = np.unique(np.linspace(0, len(rows) - 1, NUM_ROWS_COMPARED, dtype=np.int64)).tolist() if rows else []
        if not indices:
            return True
        fresh = encode_rows(self.dataset, self.collator, indices=indices)
        kept = [rows[index] for index in indices]
        return np.array_equal(fresh.input_ids, np.concatenate([sample.input_ids for sample in kept])) and (
            np.array_equal(fresh.is_target, np.concatenate([sample.is_target for sample in kept]))
        )


def _never() -> bool:
    return False


def _ignore(num_rows: int) -> None:
    """Nobody asked for the progress."""
