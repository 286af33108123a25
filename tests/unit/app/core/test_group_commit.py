"""Writes that share a commit: all answers come after it, and a failure is its own."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from app.db.group_commit import GroupCommit
from app.db.session import SessionFactory, build_engine, snapshot, transaction

NUMBERS = [1, 2, -7, 3, 4, -3, 5]
"""Negative ones fail after they were written."""


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[SessionFactory]:
    engine = build_engine(f"sqlite:///{tmp_path / 'group.db'}")
    factory = SessionFactory(engine)
    with transaction(factory) as connection:
        connection.execute(text("CREATE TABLE numbers (number INTEGER PRIMARY KEY)"))
    yield factory
    engine.dispose()


def _insert(number: int, connection: Connection) -> int:
    connection.execute(text("INSERT INTO numbers VALUES (:number)"), {"number": number})
    if number < 0:
        raise ValueError(f"{number} is refused after it was written")
    return number


def _read(sessions: SessionFactory) -> list[int]:
    with snapshot(sessions) as connection:
        return list(connection.execute(text("SELECT number FROM numbers ORDER BY number")).scalars())


def test_what_was_answered_is_committed_and_a_failure_is_its_own(sessions: SessionFactory) -> None:
    async def write_all() -> list[int | BaseException]:
        group = GroupCommit(sessions)
        try:
            writes = [group.run(lambda connection, number=number: _insert(number, connection)) for number in NUMBERS]
            return await asyncio.gather(*writes, return_exceptions=True)
        finally:
            await asyncio.to_thread(group.close)

    answers = asyncio.run(write_all())
    assert [answer for answer in answers if isinstance(answer, int)] == [n for n in NUMBERS if n >= 0]
    assert [str(answer)[:2] for answer in answers if isinstance(answer, ValueError)] == ["-7", "-3"]
    assert _read(sessions) == sorted(n for n in NUMBERS if n >= 0)


def test_a_commit_that_fails_is_told_to_everybody_and_stores_nothing(sessions: SessionFactory) -> None:
    written: list[int] = []

    async def write_all() -> list[int | BaseException]:
        group = GroupCommit(sessions)
        sessions.engine.dispose()
        try:
            with pytest.MonkeyPatch.context() as patch:
                # The only way to make a commit fail at will.
                patch.setattr("app.db.group_commit.transaction", _FailingTransaction)
                writes = [group.run(lambda _, number=number: written.append(number)) for number in (1, 2)]
                return await asyncio.gather(*writes, return_exceptions=True)
        finally:
            await asyncio.to_thread(group.close)

    answers = asyncio.run(write_all())
    assert [str(answer) for answer in answers] == ["no commit", "no commit"]
    # It may have been stored after all: done again, it would be stored twice.
    assert written == [1, 2]
    assert _read(sessions) == []


def test_after_closing_nothing_is_taken(sessions: SessionFactory) -> None:
    async def write_late() -> None:
        group = GroupCommit(sessions)
        await group.run(lambda connection: _insert(1, connection))
        await asyncio.to_thread(group.close)
        await group.run(lambda connection: _insert(2, connection))

    with pytest.raises(RuntimeError, match="stopping"):
        asyncio.run(write_late())
    assert _read(sessions) == [1]


class _FailingTransaction:
    def __init__(self, sessions: SessionFactory) -> None:
        self._connection = sessions.engine.connect()

    def __enter__(self) -> Connection:
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        raise OSError("no commit")
