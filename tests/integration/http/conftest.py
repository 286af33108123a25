"""Real servers: uvicorn in a process of its own, its database and storage in a temporary folder."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from app.bus import Bus
from app.db.migrate import upgrade
from app.db.session import SessionFactory, build_engine
from app.ids import new_id
from app.jobs.catalogue import built_in_catalogue
from app.jobs.commands import NewArtifact, NewEvent, Outcome
from app.jobs.service import JobService
from app.jobs.workers import WorkerInfo, WorkerService
from app.keys.service import KeyService
from app.previews.service import PreviewService
from app.server import bind_listener
from app.settings import Settings
from app.storage import Storage
from tests.support.hostile import PATIENCE_SECONDS, read_rss_bytes
from tests.support.valkey import run_valkey

STOP_SECONDS = 15
MOST_GROWTH_BYTES = 64 << 20
MINIMAL_JOB = {"config": {"model_name_or_path": "owner/name", "apply_lora": True, "dataset_key": "soda"}}


@dataclass
class LiveServer:
    """A server, its settings, and the core on the same database, as a worker would use it."""

    settings: Settings
    url: str
    process: subprocess.Popen[bytes]
    jobs: JobService
    keys: KeyService
    workers: WorkerService
    previews: PreviewService
    bus: Bus
    worker_id: str

    def start_job(self, client: httpx2.Client, **fields: object) -> "RunningJob":
        """Submits a job and claims it, as its worker would."""
        answer = client.post("/v1/jobs", json={**MINIMAL_JOB, **fields})
        assert answer.status_code == 201, answer.text
        job_id = answer.json()["id"]
        claim = self.jobs.claim(job_id, self.worker_id)
        assert claim is not None
        return RunningJob(self, job_id, claim.attempt)

    def make_client(self, owner: str = "ana", scopes: tuple[str, ...] = ("jobs",)) -> httpx2.Client:
        """A client with a new key of this owner."""
        _, key = self.keys.create(owner, "test", scopes)
        return httpx2.Client(base_url=self.url, headers={"authorization": f"Bearer {key}"}, timeout=30)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


@dataclass
class RunningJob:
    """A job in the hands of the test, which plays its worker."""

    server: LiveServer
    id: str
    attempt: int

    def emit(self, *types: str) -> None:
        """Records one event of each type."""
        events = [NewEvent(type_, step="train", data={"loss": 1.5}) for type_ in types]
        self.server.jobs.record_events(self.id, self.attempt, events)

    def log(self, first_line: int, *lines: str, stored: bool = True, live: bool = True) -> None:
        """Logs lines: into storage, onto the bus, or both."""
        if stored:
            key = f"jobs/{self.id}/logs/{self.attempt}/{first_line}.log"
            written = Storage(self.server.settings.storage_url).write(key, [("\n".join(lines) + "\n").encode()])
            self.server.jobs.record_log_chunk(
                self.id,
                self.attempt,
                first_line=first_line,
                num_lines=len(lines),
                num_bytes=written.num_bytes,
                storage_key=key,
            )
        if live:
            self.server.bus.publish_log(self.id, self.attempt, first_line, lines)

    def publish(self, path: str, content: bytes) -> None:
        """Publishes one file as an artifact."""
        key = f"jobs/{self.id}/artifacts/{path}"
        written = Storage(self.server.settings.storage_url).write(key, [content])
        artifact = NewArtifact(path.partition("/")[0], path, written.num_bytes, written.sha256, key)
        self.server.jobs.record_artifacts(self.id, self.attempt, [artifact])

    def finish(self, kind: str = "succeeded") -> None:
        """Ends the attempt."""
        self.server.jobs.finish(self.id, self.attempt, Outcome(kind))


@dataclass(frozen=True)
class Frame:
    """One server-sent event."""

    event: str
    id: str | None
    data: Mapping[str, object]


def iterate_frames(response: httpx2.Response) -> Iterator[Frame]:
    """Parses a stream; comments and `retry` are passed over."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif "event" in fields:
            yield Frame(fields["event"], fields.get("id"), json.loads(fields["data"]))
            fields = {}
        else:
            fields = {}


@contextmanager
def run_live_server(settings: Settings) -> Iterator[LiveServer]:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    upgrade(settings.database_url)
    engine = build_engine(settings.database_url)
    sessions = SessionFactory(engine)
    bus = Bus(settings.redis_url)
    jobs = JobService(sessions, settings=settings, storage=Storage(settings.storage_url), bus=bus)
    with bind_listener("127.0.0.1", 0) as listener, (settings.data_dir / "api.log").open("wb") as log:
        names = settings.model_dump(mode="json", exclude={"secret_key"}, exclude_unset=True)
        texts = {name: ",".join(value) if isinstance(value, list) else str(value) for name, value in names.items()}
        environment = {f"FINESMITH_{name.upper()}": text for name, text in texts.items()}
        argv = [sys.executable, "-m", "app.cli", "api", "--listen-fd", str(listener.fileno())]
        process = subprocess.Popen(
            argv, env={**os.environ, **environment}, pass_fds=[listener.fileno()], stdout=log, stderr=log
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    workers, worker_id = WorkerService(sessions), new_id("wrk")
    info = WorkerInfo(worker_id, "test", gpus=(), slots=1000, version="0", catalogue=built_in_catalogue())
    workers.register(info)
    keys = KeyService(sessions, settings)
    server = LiveServer(
        settings, url, process, jobs, keys, workers, PreviewService(sessions, settings=settings), bus, worker_id
    )
    try:
        # The listener is open already: the request waits in its backlog until the server is up.
        httpx2.get(f"{url}/livez", timeout=60).raise_for_status()
        yield server
    finally:
        process.kill()
        process.wait()
        bus.close()
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
    return start_server()


@pytest.fixture(scope="module")
def hostile_server(start_server: Callable[..., LiveServer]) -> Iterator[LiveServer]:
    """A server for requests of attackers: afterwards it answers, has not grown, and its log tells of no failure."""
    server = start_server(max_upload_bytes=4 << 20)
    httpx2.get(f"{server.url}/openapi.json").raise_for_status()
    before = read_rss_bytes(server.process.pid)
    yield server
    assert httpx2.get(f"{server.url}/livez", timeout=PATIENCE_SECONDS).status_code == 200
    assert read_rss_bytes(server.process.pid) - before < MOST_GROWTH_BYTES
    for line in (server.settings.data_dir / "api.log").read_text().splitlines():
        entry = json.loads(line)
        assert "timestamp" in entry, line
        assert entry["event"] != "request.failed", line
        assert "ASGI" not in entry["event"], line


@pytest.fixture(scope="module")
def valkey_url() -> Iterator[str]:
    """A Valkey on a unix socket, for this module alone."""
    with run_valkey() as valkey:
        yield valkey.url


@pytest.fixture(scope="module")
def live_server(start_server: Callable[..., LiveServer], valkey_url: str) -> LiveServer:
    """A server with Redis."""
    return start_server(redis_url=valkey_url)
