"""The service, started for the demo alone and ended with it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

START_SECONDS = 90.0
STOP_SECONDS = 15.0


class DemoService:
    """`finesmith-server up` in a fresh data folder on a free port of this machine."""

    def __init__(self, data_folder: Path, *, model_root: Path, outlives_demo: bool) -> None:
        self.data_folder = data_folder
        self._model_root = model_root
        self._outlives_demo = outlives_demo
        self.url = f"http://127.0.0.1:{_find_free_port()}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process to end with SIGTERM when the service is kept; None before the start."""
        return None if self._process is None else self._process.pid

    @property
    def log_path(self) -> Path:
        """What the service's parent prints."""
        return self.data_folder / "up.log"

    def start(self) -> None:
        """Starts it and returns at once. Settings of this shell that name another database or store are not its."""
        self.data_folder.mkdir(parents=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FINESMITH_")}
        environment |= {
            "FINESMITH_DATA_DIR": str(self.data_folder),
            "FINESMITH_MODEL_ROOT": str(self._model_root),
        }
        command = [sys.executable, "-m", "app.cli", "up", "--port", self.url.rpartition(":")[2]]
        stdin = subprocess.DEVNULL
        if not self._outlives_demo:
            # Ends everything when this process, however it ends, lets go of the pipe.
            command = [sys.executable, "-m", "trainer_core.watchdog", "--", *command]
            stdin = subprocess.PIPE
        with self.log_path.open("wb") as log:
            # A session of its own: Ctrl+C reaches the demo alone, which then stops the service in order.
            self._process = subprocess.Popen(
                command, env=environment, stdin=stdin, stdout=log, stderr=log, start_new_session=True
            )

    def wait_until_ready(self) -> str:
        """Waits for `/readyz` and returns the API key. Raises SystemExit with the log's end if it does not come."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                break
            if _answers(f"{self.url}/readyz"):
                return (self.data_folder / "api_key").read_text().strip()
            time.sleep(0.1)
        raise SystemExit(f"the service did not start:\n{self.log_path.read_text()[-2000:]}")

    def stop(self) -> None:
        """Ends it and everything that it started."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
