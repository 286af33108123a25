"""Real servers: uvicorn in a process of its own, its database and storage in a temporary folder."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from app.db.migrate import upgrade
from app.db.session import SessionFactory, build_engine
from app.jobs.service import JobService
from app.keys.service import KeyService
from app.server import bind_listener
from app.settings import Settings
from app.storage import Storage

STOP_SECONDS = 15


@dataclass
class LiveServer:
    """A server, its settings, and the core on the same database, as a worker would use it."""

    settings: Settings
    url: str
    process: subprocess.Popen[bytes]
    jobs: JobService
    keys: KeyService

    def make_client(self, owner: str = "ana", scopes: tuple[str, ...] = ("jobs",)) -> httpx2.Client:
        """A client with a new key of this owner."""
        _, key = self.keys.create(owner, "test", scopes)
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=30)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def run_live_server(settings: Settings) -> Iterator[LiveServer]:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    upgrade(settings.database_url)
    engine = build_engine(settings.database_url)
    sessions = SessionFactory(engine)
    jobs = JobService(sessions, settings=settings, storage=Storage(settings.storage_url))
    with bind_listener("127.0.0.1", 0) as listener, (settings.data_dir / "api.log").open("wb") as log:
        names = settings.model_dump(mode="json", exclude={"secret_key"}, exclude_unset=True)
        environment = {f"FINESMITH_{name.upper()}": str(value) for name, value in names.items()}
        argv = [sys.executable, "-m", "app.cli", "api", "--listen-fd", str(listener.fileno())]
        process = subprocess.Popen(
            argv, env={**os.environ, **environment}, pass_fds=[listener.fileno()], stdout=log, stderr=log
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    server = LiveServer(settings, url, process, jobs, KeyService(sessions, settings))
    try:
        # The listener is open already: the request waits in its backlog until the server is up.
        httpx2.get(f"{url}/livez", timeout=60).raise_for_status()
        yield server
    finally:
        process.kill()
        process.wait()
        engine.dispose()


@pytest.fixture(scope="module")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., LiveServer]]:
    """Starts servers, each on a folder of its own, which live until the module's tests are done."""
    with ExitStack() as stack:

        def start(**settings: object) -> LiveServer:
            folder: Path = tmp_path_factory.mktemp("data")
            values = {"data_dir": folder, "redis_url": f"unix://{folder}/no-redis.sock", **settings}
            return stack.enter_context(run_live_server(Settings(**values)))

        yield start


@pytest.fixture(scope="module")
def server(start_server: Callable[..., LiveServer]) -> LiveServer:
    """A server without Redis."""
    return start_server(model_root="/nonexistent")
