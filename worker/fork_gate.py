"""Keeps the forks of the worker's main process and its own use of the database apart.

The pool forks again whenever one of its processes has died, and threads of the main process use the database then.
SQLite keeps which locks this process holds in memory that a fork copies: a child that was forked in mid-transaction
finds the database locked by itself, for ever.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine

from app.db.session import SessionFactory


class ForkGate:
    """Held by a transaction or by a fork, never by both; make one a process, before the first fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        os.register_at_fork(
            before=self._lock.acquire, after_in_parent=self._lock.release, after_in_child=self._lock.release
        )

    def build_sessions(self, engine: Engine) -> SessionFactory:
        """Sessions for threads of this process. Only SQLite needs the gate: a fork need not wait for a server that is
        away."""
        return _GatedSessions(engine, self._lock) if engine.dialect.name == "sqlite" else SessionFactory(engine)


class _GatedSessions(SessionFactory):
    """Leaves no connection open behind a transaction: a child would take it for its own."""

    def __init__(self, engine: Engine, lock: threading.Lock) -> None:
        super().__init__(engine)
        self._fork_lock = lock

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        with self._closing(), super().writing() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self._closing(), super().reading() as connection:
            yield connection

    @contextmanager
    def _closing(self) -> Iterator[None]:
        with self._fork_lock:
            try:
                yield
            finally:
                self.engine.dispose()
