"""Many small writes in one commit: SQLite lets one writer in at a time, and PostgreSQL one for each owner's limits."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection

from app.db.session import SessionFactory, transaction

Result = TypeVar("Result")

MOST_WRITES_OF_A_COMMIT = 64


@dataclass(frozen=True, slots=True)
class _Write:
    work: Callable[[Connection], Any]
    future: "asyncio.Future[Any]"


@dataclass(frozen=True, slots=True)
class _Outcome:
    future: "asyncio.Future[Any]"
    result: Any = None
    error: BaseException | None = None


class GroupCommit:
    """One thread writes for all requests: what gathers while it commits goes into its next transaction.

    With 32 clients on two cores a request cost 5 ms of processor time with a thread and a transaction of its own, most
    of it hops between threads; a group pays them once. The failure of a write is its own: when one fails, the group is
    rolled back and done again with a savepoint for each, so that a write may be run twice, and must write to the
    database alone.
    """

    def __init__(self, sessions: SessionFactory) -> None:
        self._sessions = sessions
        self._waiting: deque[_Write] = deque()
        self._condition = threading.Condition()
        self._is_closed = False
        self._thread: threading.Thread | None = None

    async def run(self, work: Callable[[Connection], Result]) -> Result:
        """Returns what `work` returns once that is committed; raises what `work` raises, or the commit."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        with self._condition:
            if self._is_closed:
                raise RuntimeError("the server is stopping")
            if self._thread is None:
                self._thread = threading.Thread(target=self._write, args=(loop,), name="group-commit", daemon=True)
                self._thread.start()
            self._waiting.append(_Write(work, future))
            self._condition.notify()
        return await future

    def close(self) -> None:
        """Writes what waits, then ends the thread. Blocks for that long; a second call does nothing."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _write(self, loop: asyncio.AbstractEventLoop) -> None:
        while writes := self._take():
            outcomes = self._commit(writes)
            try:
                loop.call_soon_threadsafe(_deliver, outcomes)
            except RuntimeError:
                # The loop is closed: nobody waits for the answers any more.
                return

    def _take(self) -> list[_Write]:
        """Waits for writes; none when closed."""
        with self._condition:
            while not self._waiting and not self._is_closed:
                self._condition.wait()
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), MOST_WRITES_OF_A_COMMIT))]

    def _commit(self, writes: list[_Write]) -> list[_Outcome]:
        try:
            return self._commit_all(writes, run=_run)
        except _FailedWriteError:
            return self._commit_all(writes, run=_try)

    def _commit_all(self, writes: list[_Write], *, run: Callable[[_Write, Connection], _Outcome]) -> list[_Outcome]:
        """Raises _FailedWriteError where `run` does, with nothing stored."""
        try:
            with transaction(self._sessions) as connection:
                return [run(write, connection) for write in writes]
        except _FailedWriteError:
            raise
        # The commit, or the begin: whatever the driver raises, everybody is told. What became of a commit that failed
        # is not known, so it is not done again.
        except Exception as error:  # noqa: BLE001
            return [_Outcome(write.future, error=error) for write in writes]


class _FailedWriteError(Exception):
    """A write of a group raised."""


def _run(write: _Write, connection: Connection) -> _Outcome:
    try:
        return _Outcome(write.future, result=write.work(connection))
    except Exception as error:
        raise _FailedWriteError from error


def _try(write: _Write, connection: Connection) -> _Outcome:
    try:
        with connection.begin_nested():
            return _Outcome(write.future, result=write.work(connection))
    # It is raised again where the write was asked for.
    except Exception as error:  # noqa: BLE001
        return _Outcome(write.future, error=error)


def _deliver(outcomes: list[_Outcome]) -> None:
    for outcome in outcomes:
        if outcome.future.done():
            continue
        if outcome.error is not None:
            outcome.future.set_exception(outcome.error)
        else:
            outcome.future.set_result(outcome.result)
