"""Engines and transactions for SQLite and PostgreSQL."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from pydantic_core import from_json, to_json
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

# As many connections as the server has threads: a request never waits for one (starlette's limit is 40).
POOL_SIZE = 40
BUSY_TIMEOUT_SECONDS = 30.0
PING_AFTER_IDLE_SECONDS = 1.0
_WRITING = "finesmith_writing"
_IDLE_SINCE = "finesmith_idle_since"


def build_engine(url: str, *, pool_size: int = POOL_SIZE) -> Engine:
    """An engine for `sqlite:///path` or `postgresql+psycopg://…`; connects at first use.

    SQLite: WAL, synchronous=FULL, foreign keys on, 30 s busy timeout, BEGIN IMMEDIATE for writers. PostgreSQL: 5 s to
    connect, 10 s for a lock, 20 s for a link or a transaction that gives no sign of life.
    """
    if url.startswith("sqlite"):
        engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=10,
            connect_args={"timeout": BUSY_TIMEOUT_SECONDS},
            json_serializer=_dump_json,
            json_deserializer=from_json,
        )
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=10,
        connect_args=_POSTGRES_CONNECT_ARGS,
        json_serializer=_dump_json,
        json_deserializer=from_json,
    )
    _ping_idle_connections(engine)
    return engine


def _ping_idle_connections(engine: Engine) -> None:
    """As the pool's own ping, but not of a connection that was in use a moment ago: a ping before each transaction
    was two of the 13 round trips of a submission."""

    def note_return(_connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        record.info[_IDLE_SINCE] = time.monotonic()

    def ping(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection) -> None:
        since = record.info.get(_IDLE_SINCE)
        if since is None or time.monotonic() - since < PING_AFTER_IDLE_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # The others of the pool are as old: all of them are opened anew.
            raise InvalidatePoolError from error

    event.listen(engine, "checkin", note_return)
    event.listen(engine, "checkout", ping)


_POSTGRES_CONNECT_ARGS = {
    "connect_timeout": 5,
    # A link that is gone without a word is noticed within 20 s, while it idles and while it is waited for.
    **{"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 20_000},
    # A process that was stopped in mid-transaction holds its rows for so long and no longer.
    "options": "-c lock_timeout=10s -c idle_in_transaction_session_timeout=20s",
}


def _dump_json(value: object) -> str:
    return to_json(value).decode()


def _prepare_sqlite(connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    raw = connection.driver_connection if hasattr(connection, "driver_connection") else connection
    assert isinstance(raw, sqlite3.Connection)
    # The driver's own BEGIN would come before the first write only, and would not be IMMEDIATE.
    raw.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        raw.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    writing = connection.get_execution_options().get(_WRITING, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


class SessionFactory:
    """Opens transactions on one engine; on SQLite it also lets one thread of this process write at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        # Without it SQLite's busy handler polls: p99 of a write went from 0.1 s to over 1 s with 32 threads.
        self._write_lock = threading.Lock() if engine.dialect.name == "sqlite" else None

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with self._write_lock or nullcontext(), self.engine.connect() as connection:
            connection = connection.execution_options(**{_WRITING: True})
            with connection.begin():
                yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.engine.connect() as connection, connection.begin():
            yield connection


@contextmanager
def transaction(factory: SessionFactory) -> Iterator[Connection]:
    """A transaction that may write: commits at the end, rolls back on any exception."""
    with factory.writing() as connection:
        yield connection


@contextmanager
def snapshot(factory: SessionFactory) -> Iterator[Connection]:
    """A transaction that only reads, and waits for no writer."""
    with factory.reading() as connection:
        yield connection
