"""A process that tokenises rows: `python -m`, pickles on stdin and stdout, and an end with the one who started it.

First a pickle of the pickled `RowEncoder`, answered by None or LoadFailure; then rows, each answered by an EncodedChunk
or by the exception that they raised.
"""

import os
import pickle
import signal
import sys
import traceback
from typing import IO, Any

from trainer_core.tokenized.row_encoder import LoadFailure, RowEncoder


def main() -> None:
    """Answers until stdin ends."""
    # Ctrl-C reaches every process of a terminal: the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What a user's code prints must not get between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        _answer_all(sys.stdin.buffer, answers)
    except (EOFError, BrokenPipeError):
        # Nobody is there any more; the buffer's rest is for nobody.
        os._exit(0)


def _answer_all(requests: IO[bytes], answers: IO[bytes]) -> None:
    encoder = _load_encoder(pickle.load(requests))
    if isinstance(encoder, LoadFailure):
        _send(answers, encoder)
        return
    _send(answers, None)
    while True:
        rows = pickle.load(requests)
        try:
            answer: Any = encoder.encode(rows)
        # Data sets and collators may be a user's code: whatever it raises is raised where the training runs.
        except Exception as error:  # noqa: BLE001
            answer = _make_sendable(error)
        _send(answers, answer)


def _load_encoder(payload: bytes) -> RowEncoder | LoadFailure:
    try:
        encoder: RowEncoder = pickle.loads(payload)
    # Unpickling imports a user's modules, which may raise anything; the rows are then tokenised where they could be.
    except Exception as error:  # noqa: BLE001
        return LoadFailure(f"{type(error).__name__}: {error}")
    return encoder


def _make_sendable(error: Exception) -> Exception:
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    # An exception class may refuse to be pickled, or to be built anew, in any way.
    except Exception:  # noqa: BLE001
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _send(answers: IO[bytes], answer: object) -> None:
    pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
    answers.flush()


if __name__ == "__main__":
    main()
