"""Tokenising of all rows: here, or in several processes where that is sooner done."""

import logging
import os
import time
from collections.abc import Callable, Generator
from contextlib import closing

from trainer_core.collators.token_collator import TokenCollator
from trainer_core.datasets.base import BaseDataset
from trainer_core.errors import StepInterrupted
from trainer_core.tokenized.encoding import EncodedChunk, encode_rows
from trainer_core.tokenized.encoding_pool import EncodingPool
from trainer_core.tokenized.row_encoder import LoadFailure

MAX_PROCESSES = 16
"""Each holds some 400 MB, much of it shared. The one that feeds them is no limit: it took 0.01 ms a row."""
TRIAL_SECONDS = 2.0
"""After this the time that the rest takes is known well enough."""
SECONDS_WORTH_A_PROCESS = 10.0
"""Of work; a process is ready after 2 to 5 s, which it spends importing."""
CHUNK_SECONDS = 0.25
"""What a chunk should take here: a stop is seen between two."""
MAX_CHUNK_ROWS = 256

logger = logging.getLogger(__name__)


def encode_all(
    dataset: BaseDataset, collator: TokenCollator, *, num_processes: int | None, should_stop: Callable[[], bool]
) -> Generator[EncodedChunk, None, None]:
    """The tokens of all rows, in order. `num_processes` None: by what the first rows took and how many cores there are.

    Raises what `encode_rows` raises for a row, StepInterrupted soon after `should_stop` says so, and TrainerError for a
    process that died.
    """
    num_done = 0
    if num_processes is None:
        started = time.monotonic()
        for chunk in encode_here(dataset, collator, start=0, should_stop=should_stop):
            yield chunk
            num_done += len(chunk.lengths)
            seconds = time.monotonic() - started
            num_processes = choose_num_processes(seconds=seconds, num_done=num_done, num_rows=len(dataset))
            if num_processes > 1:
                break
    if num_processes is not None and num_processes > 1 and num_done < len(dataset):
        try:
            with closing(EncodingPool(dataset, collator, num_processes=num_processes)) as pool:
                for chunk in pool.encode_from(num_done, should_stop=should_stop):
                    yield chunk
                    num_done += len(chunk.lengths)
        except LoadFailure as failure:
            logger.info("tokenises in this process: %s", failure)
    yield from encode_here(dataset, collator, start=num_done, should_stop=should_stop)


def encode_here(
    dataset: BaseDataset, collator: TokenCollator, *, start: int, should_stop: Callable[[], bool]
) -> Generator[EncodedChunk, None, None]:
    """The tokens of the rows from `start` on, a quarter of a second's work at a time."""
    num_rows = 1
    while start < len(dataset):
        if should_stop():
            raise StepInterrupted("stopped while the data were tokenised")
        began = time.monotonic()
        stop = min(start + num_rows, len(dataset))
        yield encode_rows(dataset, collator, indices=range(start, stop))
        start = stop
        seconds = time.monotonic() - began
        if seconds > CHUNK_SECONDS:
            num_rows = max(1, num_rows // 2)
        elif seconds < CHUNK_SECONDS / 2:
            num_rows = min(2 * num_rows, MAX_CHUNK_ROWS)


def choose_num_processes(*, seconds: float, num_done: int, num_rows: int) -> int:
    """How many processes end the rest soonest, when so many rows took so many seconds in one; 1: this one."""
    if seconds < TRIAL_SECONDS:
        return 1
    remaining_seconds = seconds / num_done * (num_rows - num_done)
    num_cores = len(os.sched_getaffinity(0))
    return max(1, min(num_cores, MAX_PROCESSES, int(remaining_seconds / SECONDS_WORTH_A_PROCESS)))
