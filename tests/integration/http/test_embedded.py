"""`finesmith-server up`: everything starts, stops and dies together."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest

from trainer_core.watchdog import find_descendants

START_SECONDS = 60
STOP_SECONDS = 10


@contextmanager
def run_up(data_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "FINESMITH_DATA_DIR": str(data_dir)}
    argv = [sys.executable, "-m", "app.cli", "up", "--port", "0", *arguments]
    process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def read_url(process: subprocess.Popen[str]) -> str:
    """Waits for the ready line."""
    for line in process.stderr:
        if "ready" in line:
            return line.split("ready: ")[1].split()[0]
    raise AssertionError("it ended without getting ready")


def wait_until_gone(pids: list[int], seconds: float) -> list[int]:
    """The processes that still live after so long; zombies count as gone."""
    deadline = time.monotonic() + seconds
    while (left := [pid for pid in pids if is_alive(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def find_process(root: int, part: str) -> int:
    """The first descendant whose command line has this part."""
    for pid in find_descendants(root):
        try:
            if part in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        except OSError:
            continue
    raise AssertionError(f"no process with {part}")


def make_client(url: str, data_dir: Path) -> httpx2.Client:
    key = (data_dir / "api_key").read_text().strip()
    return httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=30)


def test_it_starts_with_a_private_key_and_stops_whole(tmp_path):
    # Deeper than a socket's path may be.
    data_dir = tmp_path / ("deep" * 20) / "data"
    with run_up(data_dir) as process:
        with make_client(read_url(process), data_dir) as client:
            assert stat.S_IMODE((data_dir / "api_key").stat().st_mode) == 0o600
            assert client.get("/readyz").json()["status"] == "ready"
            assert client.get("/v1/keys").json()["data"][0]["owner"] == "default"
            job = client.post("/v1/jobs", json={"config": {"model_name_or_path": "local:none"}})
            assert job.status_code == 422
            pids = [process.pid, *find_descendants(process.pid)]
            assert len(pids) >= 5
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(STOP_SECONDS) == 0
        assert time.monotonic() - started < STOP_SECONDS
        assert wait_until_gone(pids, 0) == []


def test_nothing_outlives_a_killed_starter(tmp_path):
    with run_up(tmp_path) as process:
        read_url(process)
        pids = find_descendants(process.pid)
        assert len(pids) >= 4
        process.kill()
        assert wait_until_gone(pids, 5) == []


@pytest.mark.slow
def test_a_second_one_on_the_same_folder_is_refused_and_the_key_survives_a_restart(tmp_path):
    with run_up(tmp_path, "--workers", "0") as process:
        read_url(process)
        with run_up(tmp_path) as second:
            message = second.stderr.read()
            assert second.wait(START_SECONDS) == 3
        assert "Another Finesmith runs" in message
        key = (tmp_path / "api_key").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_SECONDS) == 0
    with run_up(tmp_path, "--workers", "0") as process, make_client(read_url(process), tmp_path) as client:
        assert (tmp_path / "api_key").read_text() == key
        assert client.get("/v1/jobs").status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("part", ["\0api\0", "trainer_core.watchdog", "unixsocket:"])
def test_a_child_that_dies_is_started_again_at_the_same_place(tmp_path, part):
    with run_up(tmp_path, "--workers", "0") as process:
        url = read_url(process)
        os.kill(find_process(process.pid, part), signal.SIGKILL)
        assert "is started again" in next(line for line in process.stderr if "ended with status" in line)
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if httpx2.get(f"{url}/readyz", timeout=5).json()["status"] == "ready":
                    break
            except httpx2.TransportError:
                pass
            assert time.monotonic() < deadline
            time.sleep(0.05)
        commands = [Path(f"/proc/{pid}/cmdline").read_text() for pid in find_descendants(process.pid)]
        assert sum("valkey-server" in each and "watchdog" not in each for each in commands) == 1


def test_an_address_in_use_is_said_plainly(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with run_up(tmp_path, "--port", str(port)) as process:
            assert f"port {port}" in process.stderr.read()
            assert process.wait(START_SECONDS) == 4


def test_a_public_address_without_a_key_is_refused(tmp_path):
    environment = {**os.environ, "FINESMITH_DATA_DIR": str(tmp_path)}
    run = [sys.executable, "-m", "app.cli"]
    subprocess.run([*run, "migrate"], env=environment, check=True, capture_output=True)
    refused = subprocess.run([*run, "api", "--host", "0.0.0.0"], env=environment, capture_output=True, text=True)
    assert refused.returncode == 2
    assert "no API key" in refused.stderr
