"""Tokenising of rows in several processes at once, in order."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue

from trainer_core.collators.sample_error import SampleError
from trainer_core.collators.token_collator import TokenCollator
from trainer_core.datasets.base import BaseDataset
from trainer_core.errors import StepInterrupted
from trainer_core.tokenized.encoding import EncodedChunk
from trainer_core.tokenized.encoding_process import EncodingProcess
from trainer_core.tokenized.row_encoder import LoadFailure, Rows, pickle_encoder
from trainer_core.tokenized.row_sample_error import RowSampleError, locate_error

ROWS_AT_ONCE = 64
"""Rows sent to a process: with fewer, sending shows; with more, long rows fill the memory."""
CHUNKS_IN_FLIGHT = 2
"""For each process: one that it works on, one that waits for it or that waits to be written."""
STOP_CHECK_SECONDS = 0.2


class EncodingPool:
    """Processes, and a thread for each that talks to it. Ends them all when it is closed."""

    def __init__(self, dataset: BaseDataset, collator: TokenCollator, *, num_processes: int) -> None:
        """Raises LoadFailure where no process can be started, or none that could know the collator."""
        self._dataset = dataset
        payload, self._sends_positions = pickle_encoder(dataset, collator)
        self._num_processes = num_processes
        self._processes: list[EncodingProcess] = []
        self._idle: SimpleQueue[EncodingProcess] = SimpleQueue()
        self._threads = ThreadPoolExecutor(num_processes, thread_name_prefix="tokenise")
        try:
            for _ in range(num_processes):
                process = EncodingProcess(payload)
                self._processes.append(process)
                self._idle.put(process)
        except OSError as error:
            self.close()
            raise LoadFailure(f"no process can be started: {error}") from error

    def encode_from(self, start: int, *, should_stop: Callable[[], bool]) -> Iterator[EncodedChunk]:
        """The tokens of the rows from `start` on. Raises what `EncodingProcess.encode` raises, and StepInterrupted."""
        pending: deque[tuple[int, Future[EncodedChunk]]] = deque()
        for first in range(start, len(self._dataset), ROWS_AT_ONCE):
            rows = self._read(range(first, min(first + ROWS_AT_ONCE, len(self._dataset))))
            pending.append((first, self._threads.submit(self._encode, rows)))
            if len(pending) >= CHUNKS_IN_FLIGHT * self._num_processes:
                yield self._take_first(pending, should_stop)
        while pending:
            yield self._take_first(pending, should_stop)

    def close(self) -> None:
        """Ends the processes, whatever they do, and waits for them."""
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.close()

    def _read(self, indices: range) -> Rows:
        return indices if self._sends_positions else [self._dataset[index] for index in indices]

    def _encode(self, rows: Rows) -> EncodedChunk:
        process = self._idle.get()
        try:
            return process.encode(rows)
        finally:
            self._idle.put(process)

    def _take_first(
        self, pending: deque[tuple[int, Future[EncodedChunk]]], should_stop: Callable[[], bool]
    ) -> EncodedChunk:
        first, future = pending.popleft()
        while True:
            # Also before the answer is looked at: a signal to the whole group ends the processes too.
            if should_stop():
                raise StepInterrupted("stopped while the data were tokenised")
            wait([future], timeout=STOP_CHECK_SECONDS)
            if future.done():
                break
        try:
            return future.result()
        except RowSampleError:
            raise
        except SampleError as error:
            raise locate_error(error, self._dataset, index=first + error.position) from error
