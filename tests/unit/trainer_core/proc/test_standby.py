"""What a waiting process is told and says, and how it becomes the job's."""

import json
import os
import subprocess
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from trainer_core.standby.command_line import reserve_room
from trainer_core.standby.hand_over import HandOver, Readiness, has_line, read_line, write_line
from trainer_core.standby.moved_paths import MovedPaths

REPOSITORY = Path(__file__).parents[4]
HAND_OVER = HandOver(("--workspace", "/w/ü", "--attempt", "3"), "/w/ü", {"HOME": "/owner", "A": 'b"\n'})


def run_python(
    code: str, *arguments: str, line: bytes = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    variables = {"PYTHONPATH": str(REPOSITORY), "PATH": os.environ["PATH"], **(env or {})}
    argv = [sys.executable, "-P", "-c", code, *arguments]
    return subprocess.run(
        argv, input=line.decode(), capture_output=True, text=True, check=False, env=variables, timeout=60
    )


def test_a_hand_over_is_one_line_and_comes_back_as_it_was() -> None:
    line = HAND_OVER.to_line()

    assert line.count(b"\n") == 1
    assert HandOver.from_line(line) == HAND_OVER


@pytest.mark.parametrize("line", [b"", b"null", b"{}", b"Traceback", b'{"is_ready": true}', b"[1]"])
def test_what_is_no_readiness_is_none(line: bytes) -> None:
    assert not Readiness.from_line(line).is_ready


def test_a_line_is_read_and_no_more() -> None:
    reader, writer = os.pipe()
    assert not has_line(reader)
    os.write(writer, b"first\nsec")

    assert has_line(reader)
    assert read_line(reader, timeout_seconds=1) == b"first"
    assert read_line(reader, timeout_seconds=0.05) is None, "half a line, then silence"
    os.write(writer, b"third\n")
    assert read_line(reader, timeout_seconds=1) == b"third"
    os.close(writer)
    assert has_line(reader), "the end is something to read"
    assert read_line(reader, timeout_seconds=1) is None
    os.close(reader)


def test_a_line_is_written_whole_or_given_up() -> None:
    reader, writer = os.pipe()
    line = b"x" * 100_000 + b"\n"
    started_at = time.monotonic()
    assert not write_line(writer, line, timeout_seconds=0.2), "nobody reads, and a pipe holds 64 KiB"
    assert time.monotonic() - started_at < 5
    assert os.get_blocking(writer)
    os.close(reader)
    assert not write_line(writer, line, timeout_seconds=1), "there is no other end"
    os.close(writer)

    reader, writer = os.pipe()
    with ThreadPoolExecutor() as pool:
        read = pool.submit(read_line, reader, timeout_seconds=20)
        assert write_line(writer, line, timeout_seconds=20)
        assert read.result() == line[:-1]
    os.close(reader)
    os.close(writer)


TAKE = """
import json, os, sys, tempfile
from trainer_core.standby.hand_over import HandOver
from trainer_core.standby.taking import take_job
tempfile.gettempdir()
birth = dict(os.environ)
os.environ["SET_BY_A_LIBRARY"] = "1"
try:
    take_job(HandOver.from_line(sys.stdin.readline()), entry=("-m", "trainer_core.step_main"), birth_environment=birth)
except ValueError as error:
    sys.exit(str(error))
print(json.dumps({
    "argv": open("/proc/self/cmdline", "rb").read().decode().rstrip("\\0").split("\\0")[1:],
    "sys.argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "tmp": tempfile.gettempdir(),
    "c": __import__("ctypes").CDLL(None).getenv(b"GONE"),
}))
"""


def test_it_takes_command_line_folder_and_environment_over(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "HOME": "/owner", "TMPDIR": str(tmp_path)}
    hand_over = HandOver(("--workspace", str(tmp_path), "--attempt", "3"), str(tmp_path), env)

    done = run_python(TAKE, reserve_room(300), line=hand_over.to_line(), env={"GONE": "1", "HOME": "/nobody"})

    seen = json.loads(done.stdout)
    assert seen["argv"] == ["-P", "-m", "trainer_core.step_main", *hand_over.arguments]
    assert seen["sys.argv"] == list(hand_over.arguments)
    assert (seen["cwd"], seen["tmp"]) == (str(tmp_path), str(tmp_path))
    assert {name: seen["env"][name] for name in env} == env
    assert seen["env"]["SET_BY_A_LIBRARY"] == "1"
    assert "GONE" not in seen["env"]
    assert seen["c"] == 0, "code in C does not see it either"


def test_without_room_for_its_command_line_it_takes_nothing(tmp_path: Path) -> None:
    hand_over = HandOver(("--workspace", "/w" * 5000), str(tmp_path), {})

    done = run_python(TAKE, reserve_room(10), line=hand_over.to_line())

    assert done.returncode == 1
    assert "a command line of" in done.stderr


def test_paths_that_libraries_keep_move_to_the_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept:
        FOLDER = Path("/nobody/home/.cache/a")

    module = types.ModuleType("kept_paths")
    cache = types.SimpleNamespace(folder="/nobody/home/.cache/b", size=3)
    vars(module).update(HOME="/nobody/home", HUB="/nobody/home/hub", OTHER="/nobody/home2", Kept=Kept, cache=cache)
    monkeypatch.setitem(sys.modules, "kept_paths", module)

    MovedPaths("/nobody/home").move("/ann/home")

    assert (module.HOME, module.HUB, module.OTHER) == ("/ann/home", "/ann/home/hub", "/nobody/home2")
    assert Path("/ann/home/.cache/a") == Kept.FOLDER
    assert cache.folder == "/ann/home/.cache/b"
    assert len(MovedPaths("/nobody/home")) == 0


def test_a_waiting_process_cannot_be_traced_by_others_of_its_user() -> None:
    code = (
        "import ctypes; from trainer_core.standby.privacy import set_traceable;"
        "libc = ctypes.CDLL(None); set_traceable(False); print(libc.prctl(3, 0, 0, 0, 0), end='');"
        "set_traceable(True); print(libc.prctl(3, 0, 0, 0, 0), end='')"
    )

    assert run_python(code).stdout == "01"
