"""A database clock that stands still until a test moves it, on SQLite and PostgreSQL alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.ext.compiler import compiles

from app.db import clock
from app.db.clock import db_now

_READ = "(SELECT at FROM fake_clock)"
_START = 1_800_000_000.0
_REAL = {"sqlite": clock._compile_sqlite, "postgresql": clock._compile_postgresql}


class FakeClock:
    """The time lies in a table, so that every connection sees it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.now = _START

    def advance(self, seconds: float) -> None:
        """Moves the database's clock on."""
        self.now += seconds
        with self._engine.begin() as connection:
            connection.execute(text("UPDATE fake_clock SET at = :now"), {"now": self.now})


@contextmanager
def fake_database_clock(url: str) -> Iterator[FakeClock]:
    """Within it, statements that are compiled read the fake clock: build the engine under test inside."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE fake_clock (at DOUBLE PRECISION NOT NULL)"))
        connection.execute(text("INSERT INTO fake_clock VALUES (:now)"), {"now": _START})
    # A patch: the clock of a real database cannot be set.
    for dialect in _REAL:
        compiles(db_now, dialect)(_compile_fake)
    try:
        yield FakeClock(engine)
    finally:
        for dialect, compile_ in _REAL.items():
            compiles(db_now, dialect)(compile_)
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE fake_clock"))
        engine.dispose()


def _compile_fake(element: db_now, compiler: Any, **kwargs: Any) -> str:
    return _READ
