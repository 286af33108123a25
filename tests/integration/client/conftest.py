"""The real server on SQLite in a process of its own, and the core beside it to play the worker's part."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from finesmith import Client, Health, RetryPolicy

from app.db.migrate import upgrade
from app.db.session import SessionFactory, build_engine
from app.ids import new_id
from app.jobs.catalogue import built_in_catalogue
from app.jobs.commands import NewArtifact, NewEvent, Outcome
from app.jobs.service import JobService
from app.jobs.views import JobError
from app.jobs.workers import WorkerInfo, WorkerService
from app.keys.service import KeyService
from app.server import bind_listener
from app.settings import Settings
from app.storage import Storage

CONFIG = {"model_name_or_path": "owner/name", "apply_lora": True}


@dataclass
class Attempt:
    """A job in the hands of the test, which plays its worker."""

    jobs: JobService
    storage: Storage
    job_id: str
    number: int

    def emit(self, *types: str) -> None:
        """Records one event of each type."""
        events = [
            NewEvent(type_, step="train", data={"loss": 1.5, "global_step": 7, "total_steps": 9}) for type_ in types
        ]
        self.jobs.record_events(self.job_id, self.number, events)

    def log(self, first_line: int, *lines: str) -> None:
        """Stores log lines."""
        key = f"jobs/{self.job_id}/logs/{self.number}/{first_line}.log"
        written = self.storage.write(key, [("\n".join(lines) + "\n").encode()])
        self.jobs.record_log_chunk(
            self.job_id,
            self.number,
            first_line=first_line,
            num_lines=len(lines),
            num_bytes=written.num_bytes,
            storage_key=key,
        )

    def publish(self, path: str, content: bytes) -> None:
        """Publishes an artifact."""
        key = f"jobs/{self.job_id}/artifacts/{path}"
        written = self.storage.write(key, [content])
        artifact = NewArtifact(path.split("/")[0], path, written.num_bytes, written.sha256, key)
        self.jobs.record_artifacts(self.job_id, self.number, [artifact])

    def finish(self, kind: str = "succeeded", error: JobError | None = None) -> None:
        """Ends the attempt."""
        self.jobs.finish(self.job_id, self.number, Outcome(kind, error=error))


class Service:
    """The server and its parts; `kill` and `start` make it crash and come back at the same address."""

    def __init__(self, folder: Path) -> None:
        self.settings = Settings(data_dir=folder, redis_url=f"unix://{folder}/no-redis.sock")
        upgrade(self.settings.database_url)
        self._engine = build_engine(self.settings.database_url)
        sessions = SessionFactory(self._engine)
        self._storage = Storage(self.settings.storage_url)
        self._jobs = JobService(sessions, settings=self.settings, storage=self._storage)
        self.keys = KeyService(sessions, self.settings)
        self.worker_id = new_id("wrk")
        WorkerService(sessions).register(
            WorkerInfo(self.worker_id, "here", gpus=(), slots=100, version="0", catalogue=built_in_catalogue())
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """The socket is open when this returns; the first request waits in it until the server is up."""
        with bind_listener("127.0.0.1", self._port) as listener:
            self._port = listener.getsockname()[1]
            self._process = self._run(listener)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        self._engine.dispose()

    def claim(self, job_id: str) -> Attempt:
        """Takes a queued job up, as its worker would."""
        claim = self._jobs.claim(job_id, self.worker_id)
        assert claim is not None
        return Attempt(self._jobs, self._storage, job_id, claim.attempt)

    def make_client(self, owner: str) -> Client:
        """A client with a new key of this owner."""
        _, key = self.keys.create(owner, "test", ("jobs",))
        return Client(self.url, api_key=key, timeout=30, retry=RetryPolicy(initial_delay_seconds=0.05))

    def _run(self, listener: socket.socket) -> subprocess.Popen[bytes]:
        argv: Sequence[str] = [sys.executable, "-m", "app.cli", "api", "--listen-fd", str(listener.fileno())]
        environment = {
            **os.environ,
            "FINESMITH_DATA_DIR": str(self.settings.data_dir),
            "FINESMITH_REDIS_URL": self.settings.redis_url,
        }
        with (self.settings.data_dir / "api.log").open("ab") as log:
            return subprocess.Popen(argv, env=environment, pass_fds=[listener.fileno()], stdout=log, stderr=log)


@contextmanager
def run_service(folder: Path) -> Iterator[Service]:
    service = Service(folder)
    try:
        service.start()
        with service.make_client("probe") as client:
            assert isinstance(client.health(), Health)
        yield service
    finally:
        service.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with run_service(tmp_path_factory.mktemp("data")) as service:
        yield service


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with service.make_client("ana") as client:
        yield client


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n' * 3)
    return path
