"""Connections that the database has closed meanwhile are opened anew, unseen by who asks next."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from app.db import session
from app.db.session import SessionFactory, build_engine, snapshot


@pytest.fixture
def sessions(postgres_server) -> Iterator[SessionFactory]:
    url = postgres_server.create_database()
    engine = build_engine(url)
    yield SessionFactory(engine)
    engine.dispose()
    postgres_server.drop_database(url)


def ask_pid(sessions: SessionFactory) -> int:
    with snapshot(sessions) as connection:
        return connection.execute(text("SELECT pg_backend_pid()")).scalar_one()


@pytest.mark.postgres
def test_idle_connections_that_the_database_closed_are_noticed(sessions, monkeypatch):
    # Idle for a second already: a test does not wait for it.
    monkeypatch.setattr(session, "PING_AFTER_IDLE_SECONDS", 0.0)
    with sessions.engine.connect() as first, sessions.engine.connect() as second:
        pids = [connection.execute(text("SELECT pg_backend_pid()")).scalar_one() for connection in (first, second)]
    with sessions.engine.connect() as connection:
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))
        mine = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
    assert mine in pids
    assert {ask_pid(sessions) for _ in range(3)}
    with sessions.engine.connect() as first, sessions.engine.connect() as second:
        now = {connection.execute(text("SELECT pg_backend_pid()")).scalar_one() for connection in (first, second)}
    assert now != set(pids)


@pytest.mark.postgres
def test_a_connection_that_was_just_in_use_is_not_asked_again(sessions, monkeypatch):
    pings = []
    ask_pid(sessions)
    monkeypatch.setattr(sessions.engine.dialect, "do_ping", pings.append)
    ask_pid(sessions)
    assert pings == []
    monkeypatch.setattr(session, "PING_AFTER_IDLE_SECONDS", 0.0)
    ask_pid(sessions)
    assert len(pings) == 1
