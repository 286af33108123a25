"""A whole installation as in production whose every process may be killed: database, Valkey, servers, workers."""

import base64
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import redis

from app.db.session import SessionFactory, build_engine
from app.embedded import build_valkey_argv
from app.first_start import prepare_data_folder
from app.settings import Settings
from app.storage import Storage
from tests.chaos.client import Client
from tests.support.postgres_process import PostgresProcess
from trainer_core.watchdog import find_descendants

REPOSITORY = Path(__file__).parents[2]
STUB_WORKER = Path(__file__).parent / "stub_worker.py"
GUARD = Path(__file__).parent / "guard.py"
Database = Literal["sqlite", "postgres"]
# Alembic keeps what it works on in its module: one migration at a time in a process.
_MIGRATION = threading.Lock()
_SECRET_KEY = base64.b64encode(bytes(range(32))).decode()


@dataclass(frozen=True, slots=True)
class PlantOptions:
    """What is built, and its clocks in seconds: short ones, so that a lost lease costs a test little."""

    database: Database = "sqlite"
    num_servers: int = 1
    num_workers: int = 1
    lease_seconds: float = 3.0
    heartbeat_seconds: float = 0.5
    reconcile_seconds: float = 0.2
    redispatch_seconds: float = 2.0
    grace_seconds: float = 3.0
    retry_backoff_seconds: str = "0.1,0.1,0.1"
    """Pauses after the first, the second and each later failure; production's are 10, 60 and 300."""
    python_path: Sequence[Path] = ()
    """Folders in front of the processes' module path."""
    database_port: int | None = None
    """Port of a proxy before PostgreSQL, for servers and workers. None: they go there directly."""
    worker_database_port: int | None = None
    """The same for workers alone."""
    redis_port: int | None = None
    """Port of a proxy before Valkey. None: servers and workers go there directly."""


class Guard:
    """A process that clears up should this one be killed: nothing that a test started may outlive it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", str(GUARD)], stdin=subprocess.PIPE, start_new_session=True
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def watch_process(self, pid: int) -> None:
        """To be ended."""
        self._tell(f"pid {pid}")

    def watch_folder(self, folder: Path) -> None:
        """To be removed."""
        self._tell(f"folder {folder}")

    def close(self) -> None:
        """Ends it; it ends and removes what is left."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()


class Part:
    """One process of the installation and how it is started; never restarted by itself."""

    def __init__(self, name: str, argv: Sequence[str], *, env: Mapping[str, str], folder: Path, guard: Guard) -> None:
        self.name = name
        self._guard = guard
        self._argv, self._env, self._folder = list(argv), dict(env), folder
        self.process: subprocess.Popen[bytes] | None = None
        self.num_starts = 0
        self.is_held = False
        """True while nobody is to start it again."""

    @property
    def pid(self) -> int:
        """Of its main process; fails before the first start."""
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Starts it anew; what it writes goes to a file of its name."""
        with (self._folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._env,
                start_new_session=True,
            )
        self._guard.watch_process(self.pid)
        self.num_starts += 1

    def send(self, number: int) -> None:
        """Signals its main process, if it runs."""
        if self.is_running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends its main process as a crash would."""
        self.send(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()


class Plant:
    """The parts, the doors to look behind them, and a client. Close it: it leaves no process and no file."""

    def __init__(self, options: PlantOptions) -> None:
        self.options = options
        self.guard = Guard()
        self.folder = Path(tempfile.mkdtemp(prefix="fs-ch-"))
        self.guard.watch_folder(self.folder)
        self.postgres = None
        if options.database == "postgres":
            self.postgres = PostgresProcess(on_started=self.guard.watch_process)
            self.guard.watch_folder(self.postgres.folder)
        if self.postgres is not None:
            self.postgres.start()
            self.database_url = self.postgres.url
        else:
            self.database_url = f"sqlite:///{self.folder / 'finesmith.db'}"
        self.valkey_socket = self.folder / "run" / "valkey.sock"
        self.valkey_socket.parent.mkdir(mode=0o700)
        self.settings = Settings(
            data_dir=self.folder,
            database_url=self.database_url,
            redis_url=f"unix://{self.valkey_socket}",
            storage_url=str(self.folder / "storage"),
            secret_key=_SECRET_KEY,
            lease_seconds=options.lease_seconds,
            heartbeat_seconds=options.heartbeat_seconds,
        )
        with _MIGRATION:
            state = prepare_data_folder(self.settings, num_workers=options.num_workers)
        # Its connections would be found open when they are collected, which counts as an error here.
        state.jobs._sessions.engine.dispose()
        self.worker_ids = state.worker_ids
        self.key = state.api_key_path.read_text().strip()
        self.sessions = SessionFactory(build_engine(self.database_url, pool_size=4))
        self.storage = Storage(self.settings.storage_url)
        self.journal = self.folder / "journal.jsonl"
        self.valkey = Part(
            "valkey", build_valkey_argv(self.valkey_socket), env=os.environ, folder=self.folder, guard=self.guard
        )
        ports = [_find_port() for _ in range(options.num_servers)]
        self.servers = [self._build_server(number, port) for number, port in enumerate(ports, 1)]
        self.workers = [self._build_worker(worker_id) for worker_id in self.worker_ids]
        self.client = Client(ports, key=self.key)

    @property
    def parts(self) -> list[Part]:
        """All but the database."""
        return [self.valkey, *self.servers, *self.workers]

    def start(self) -> None:
        """Starts all; returns when the servers are ready and every worker is online."""
        for part in self.parts:
            part.start()
        self.wait_ready()

    def wait_ready(self, *, seconds: float = 60.0) -> None:
        """Returns when every server answers and every worker that runs is online."""
        for _ in self.servers:
            wait_until(lambda: self._ask("/readyz") == 200, seconds=seconds)
        wait_until(self._are_workers_online, seconds=seconds)

    def restart_dead(self) -> list[str]:
        """Starts what has ended and is not held; returns the names."""
        dead = [part for part in self.parts if not part.is_running and not part.is_held]
        for part in dead:
            part.start()
        return [part.name for part in dead]

    def is_valkey_answering(self) -> bool:
        """Whether it takes commands."""
        with redis.Redis(unix_socket_path=str(self.valkey_socket), socket_timeout=1.0) as link:
            try:
                return bool(link.ping())
            except redis.exceptions.RedisError:
                return False

    def flush_valkey(self) -> bool:
        """Empties it; False when it does not answer."""
        with redis.Redis(unix_socket_path=str(self.valkey_socket), socket_timeout=1.0) as link:
            try:
                return bool(link.flushall())
            except redis.exceptions.RedisError:
                return False

    def host_folder(self, worker_id: str) -> Path:
        """The data folder of a worker's host: no two share a disk."""
        return self.folder / "hosts" / worker_id

    def close(self) -> None:
        """Kills all that is left and removes the folder."""
        pids = [pid for part in self.parts if part.is_running for pid in (part.pid, *find_descendants(part.pid))]
        for pid in pids:
            _kill(pid)
        for part in self.parts:
            if part.process is not None:
                part.process.wait()
        self.sessions.engine.dispose()
        if self.postgres is not None:
            self.postgres.close()
        self.guard.close()

    def _ask(self, path: str) -> int:
        try:
            return self.client.call("GET", path, timeout_seconds=2.0).status
        except Exception:  # noqa: BLE001
            return 0

    def _are_workers_online(self) -> bool:
        answer = self.client.insist("GET", "/v1/workers")
        online = {worker["id"] for worker in answer.body["data"] if worker["status"] == "online"}
        running = {worker.name for worker in self.workers if worker.is_running}
        return running <= online

    def _build_server(self, number: int, port: int) -> Part:
        argv = [sys.executable, "-m", "app.cli", "api", "--port", str(port)]
        env = self._build_environment(self.folder, database_port=self.options.database_port)
        return Part(f"server-{number}", argv, env=env, folder=self.folder, guard=self.guard)

    def _build_worker(self, worker_id: str) -> Part:
        host = self.host_folder(worker_id)
        host.mkdir(parents=True)
        argv = [sys.executable, str(STUB_WORKER), "--worker-id", worker_id]
        port = self.options.worker_database_port or self.options.database_port
        env = self._build_environment(host, database_port=port)
        return Part(worker_id, argv, env=env, folder=self.folder, guard=self.guard)

    def _build_environment(self, data_dir: Path, *, database_port: int | None) -> dict[str, str]:
        options = self.options
        database_url, redis_url = self.database_url, self.settings.redis_url
        if database_port is not None:
            database_url = f"postgresql+psycopg://postgres@127.0.0.1:{database_port}/postgres"
        if options.redis_port is not None:
            redis_url = f"redis://127.0.0.1:{options.redis_port}/0"
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([*map(str, options.python_path), str(REPOSITORY)]),
            "FINESMITH_DATA_DIR": str(data_dir),
            "FINESMITH_DATABASE_URL": database_url,
            "FINESMITH_REDIS_URL": redis_url,
            "FINESMITH_STORAGE_URL": self.settings.storage_url,
            "FINESMITH_SECRET_KEY": _SECRET_KEY,
            "FINESMITH_LEASE_SECONDS": str(options.lease_seconds),
            "FINESMITH_HEARTBEAT_SECONDS": str(options.heartbeat_seconds),
            "FINESMITH_RECONCILE_INTERVAL_SECONDS": str(options.reconcile_seconds),
            "FINESMITH_REDISPATCH_SECONDS": str(options.redispatch_seconds),
            "FINESMITH_CANCEL_GRACE_SECONDS": str(options.grace_seconds),
            "FINESMITH_RETRY_BACKOFF_SECONDS": options.retry_backoff_seconds,
        }


@contextmanager
def run_plant(options: PlantOptions) -> Iterator[Plant]:
    """Builds and starts an installation; ends and removes it."""
    plant = Plant(options)
    try:
        plant.start()
        yield plant
    finally:
        plant.close()


def wait_until(condition: Callable[[], Any], *, seconds: float = 30.0, pause_seconds: float = 0.02) -> Any:
    """Returns the condition's value once it is true. Raises AssertionError when that takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s")
        time.sleep(pause_seconds)
    return value


def _find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
