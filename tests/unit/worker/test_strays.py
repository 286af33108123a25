"""What an earlier attempt still runs in a workspace is ended before the next one begins there; nothing else is."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.settings import Settings
from worker.strays import end_strays
from worker.workspaces import make_workspace

# Starts a child of its own, in a session of its own, that knows nothing of the workspace; then says its pid.
PROGRAM = (
    "import subprocess, time; child = subprocess.Popen(['sleep', '60'], start_new_session=True);"
    "print(child.pid, flush=True); time.sleep(60)"
)
Start = Callable[[Path, int], tuple[subprocess.Popen[bytes], int]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program of an attempt; returns it and its child's pid."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(root: Path, attempt: int) -> tuple[subprocess.Popen[bytes], int]:
        argv = [sys.executable, "-c", PROGRAM, "--workspace", str(root), "--attempt", str(attempt)]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start_one
    for process in started:
        end_strays(Path(process.args[process.args.index("--workspace") + 1]), before_attempt=100)
        process.wait()
        process.stdout.close()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_an_earlier_attempt_in_the_workspace_ends_with_its_children(tmp_path: Path, start: Start) -> None:
    settings = Settings(data_dir=tmp_path)
    root = tmp_path / "workspaces" / "job-1"
    stray, child = start(root, 1)

    make_workspace(settings, job_id="job-1", attempt=2)

    assert stray.wait(timeout=5) == -9
    assert not is_alive(child)


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("job-1", 3),  # it is this attempt that is late
        ("job-1", 2),  # one's own
        ("job-2", 1),  # another job
        ("job-10", 1),  # a name that begins alike
    ],
)
def test_other_attempts_and_jobs_are_left_alone(tmp_path: Path, start: Start, name: str, attempt: int) -> None:
    other, child = start(tmp_path / name, attempt)

    assert end_strays(tmp_path / "job-1", before_attempt=2) == 0

    assert other.poll() is None
    assert is_alive(child)
