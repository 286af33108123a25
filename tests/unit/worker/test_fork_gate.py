"""A process that is forked while another thread uses SQLite must be able to use it too."""

import os
import threading

import pytest
from sqlalchemy import text

from app.db.migrate import upgrade
from app.db.session import SessionFactory, build_engine, snapshot, transaction
from worker.fork_gate import ForkGate

# Python 3.12 warns of a fork where threads run, which is what this is about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
BEGIN = text("UPDATE counters SET value = value")


def write_in_fork(url: str) -> int:
    """Exit status of a child that writes by sessions of its own: 0, it could."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            engine = build_engine(url)
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA busy_timeout = 300")
                connection.rollback()
            with transaction(SessionFactory(engine)) as connection:
                connection.execute(BEGIN)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_fork_waits_for_the_transaction_of_another_thread(tmp_path):
    url = f"sqlite:///{tmp_path / 'finesmith.db'}"
    upgrade(url)
    gated = ForkGate().build_sessions(build_engine(url))
    begun, may_end = threading.Event(), threading.Event()

    def write() -> None:
        with transaction(gated) as connection:
            connection.execute(BEGIN)
            begun.set()
            may_end.wait(10)

    thread = threading.Thread(target=write)
    thread.start()
    begun.wait(10)
    # Without the gate the fork would not wait: the child would begin, and never get the lock.
    threading.Timer(0.2, may_end.set).start()

    assert write_in_fork(url) == 0

    thread.join()
    with snapshot(gated) as connection:
        assert connection.execute(text("SELECT count(*) FROM counters")).scalar_one() == 0


def test_no_connection_stays_open_behind_a_transaction(tmp_path):
    url = f"sqlite:///{tmp_path / 'finesmith.db'}"
    upgrade(url)
    gated = ForkGate().build_sessions(build_engine(url))

    with snapshot(gated) as connection:
        connection.execute(text("SELECT 1"))

    descriptors = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_open(number)]
    assert not [path for path in descriptors if path.startswith(str(tmp_path))]


def test_sessions_of_a_server_do_not_hold_forks_up():
    gated = ForkGate().build_sessions(build_engine("postgresql+psycopg://nobody@127.0.0.1:1/none"))

    assert type(gated) is SessionFactory


def _is_open(number: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{number}")
