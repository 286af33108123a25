"""`/readyz` tells the database from Redis, and says so in time also when one of them says nothing at all."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx2
import pytest

from app.server import bind_listener
from tests.support.valkey import run_valkey

LONGEST_SECONDS = 2.0


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port whose connections are accepted by the kernel and never answered."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


@contextmanager
def run_api(folder, **settings: str) -> Iterator[tuple[str, int]]:
    """A server whose database need not be there; its address and its process id."""
    with bind_listener("127.0.0.1", 0) as listener, (folder / "api.log").open("wb") as log:
        environment = {f"FINESMITH_{name.upper()}": value for name, value in settings.items()}
        environment["FINESMITH_DATA_DIR"] = str(folder)
        argv = [sys.executable, "-m", "app.cli", "api", "--listen-fd", str(listener.fileno())]
        process = subprocess.Popen(
            argv, env={**os.environ, **environment}, pass_fds=[listener.fileno()], stdout=log, stderr=log
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        httpx2.get(f"{url}/livez", timeout=60).raise_for_status()
        yield url, process.pid
    finally:
        process.kill()
        process.wait()


def ask(url: str) -> tuple[int, str, dict[str, str], float]:
    started = time.monotonic()
    answer = httpx2.get(f"{url}/readyz", timeout=30)
    seconds = time.monotonic() - started
    return answer.status_code, answer.json()["status"], answer.json()["checks"], seconds


def test_a_redis_that_hangs_is_told_in_time_and_forgiven_afterwards(start_server, valkey_url):
    with run_valkey() as valkey:
        server = start_server(redis_url=valkey.url)
        assert ask(server.url)[:2] == (200, "ready")
        assert valkey._process is not None
        # Stopped, it takes connections and requests and answers nothing: what a dead link looks like.
        os.kill(valkey._process.pid, signal.SIGSTOP)
        for _ in range(2):
            status, said, checks, seconds = ask(server.url)
            assert (status, said) == (200, "degraded")
            assert checks == {"database": "ok", "redis": "does not answer"}
            assert seconds < LONGEST_SECONDS
        os.kill(valkey._process.pid, signal.SIGCONT)
        assert ask(server.url)[:2] == (200, "ready")


def test_a_database_that_hangs_is_told_in_time_and_costs_no_threads(tmp_path, silent_port):
    url = f"postgresql+psycopg://finesmith:secret@127.0.0.1:{silent_port}/finesmith"
    with run_api(tmp_path, database_url=url, metrics_public="true") as (address, pid):
        threads = []
        for _ in range(2):
            status, said, checks, seconds = ask(address)
            assert (status, said) == (503, "unavailable")
            assert checks["database"] == "does not answer"
            assert seconds < LONGEST_SECONDS
            threads.append(len(list(Path(f"/proc/{pid}/task").iterdir())))
        # One thread asks, however often the question comes while it hangs.
        assert threads[-1] <= threads[0]
        started = time.monotonic()
        page = httpx2.get(f"{address}/metrics", timeout=30)
        assert "finesmith_database_up 0.0" in page.text
        assert time.monotonic() - started < 2 * LONGEST_SECONDS
    assert "secret" not in (tmp_path / "api.log").read_text()
