"""A started process that tokenises rows, as the one who started it sees it."""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import IO, Any

from trainer_core.errors import HostMemoryError, TrainerError
from trainer_core.tokenized.encoding import EncodedChunk
from trainer_core.tokenized.row_encoder import Rows

MODULE = "trainer_core.tokenized.encoding_main"


class EncodingProcess:
    """Started anew rather than forked: a fork would copy the threads' locks and the GPU's context of a training, and
    Python's own way to start processes would run a user's script once more in each.

    It ends when this process does, however that ends.
    """

    def __init__(self, payload: bytes) -> None:
        """`payload`: a pickled RowEncoder. Raises OSError."""
        self._payload = payload
        self._is_ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_build_environment(os.environ),
        )

    def encode(self, rows: Rows) -> EncodedChunk:
        """Raises what tokenising the rows raises; LoadFailure before the first rows when the process cannot know data
        set or collator; HostMemoryError, or TrainerError, for a process that died."""
        if not self._is_ready:
            self._ask(self._payload)
            self._payload = b""
            self._is_ready = True
        chunk: EncodedChunk = self._ask(rows)
        return chunk

    def kill(self) -> None:
        """Whoever waits in `encode` gets an error; the pipes stay open until `close`."""
        self._process.kill()

    def close(self) -> None:
        """Waits for the end of a process that was killed, and closes its pipes."""
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                # What was not sent is flushed here, to nobody.
                with contextlib.suppress(OSError):
                    pipe.close()

    def _ask(self, question: object) -> Any:
        requests, answers = self._get_pipes()
        try:
            pickle.dump(question, requests, protocol=pickle.HIGHEST_PROTOCOL)
            requests.flush()
            answer = pickle.load(answers)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            raise self._describe_death() from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _get_pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("both were asked for")
        return self._process.stdin, self._process.stdout

    def _describe_death(self) -> TrainerError:
        returncode = self._process.wait()
        if returncode == -signal.SIGKILL:
            return HostMemoryError("a process that tokenises the data was killed, usually for want of memory")
        return TrainerError(f"a process that tokenises the data ended with status {returncode}; its output says why")


def _build_environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        **environ,
        # As this process finds modules: a user's data set is imported there too.
        "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path),
        # One thread each: there is a process for every core.
        "TOKENIZERS_PARALLELISM": "false",
        "RAYON_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
