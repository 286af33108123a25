"""The cage of a job's processes, tried with real ones."""

import json
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from trainer_core.launch.cage_command import Cage

NOBODY = 64123
"""A uid without an entry anywhere."""
SYSTEM_PYTHON = "/usr/bin/python3"
LOOK = """
import json, os, resource, socket
def status(name):
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith(name))
def reach(address):
    try:
        socket.create_connection(address, timeout=2).close()
        return "reached"
    except OSError as error:
        return error.strerror or str(error)
print(json.dumps({
    "ids": [os.getuid(), os.getgid(), os.getgroups()],
    "core": resource.getrlimit(resource.RLIMIT_CORE),
    "files": resource.getrlimit(resource.RLIMIT_NOFILE),
    "file_bytes": resource.getrlimit(resource.RLIMIT_FSIZE),
    "memory": resource.getrlimit(resource.RLIMIT_AS),
    "processes": resource.getrlimit(resource.RLIMIT_NPROC),
    "no_new_privs": status("NoNewPrivs"),
    "capabilities": status("CapEff"),
    "oom": open("/proc/self/oom_score_adj").read().strip(),
    "nice": os.nice(0),
    "umask": os.umask(0),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "host": reach(("127.0.0.1", int(os.environ.get("PORT", "1")))),
    "outside": reach(("192.0.2.1", 80)),
}))
"""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


def look(cage: Cage, *, python: str = sys.executable, **env: str) -> dict:
    argv = [*cage.build_prefix(), python, "-I", "-c", LOOK]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def can_isolate() -> bool:
    argv = [*Cage(network="isolated").build_prefix(), "/bin/true"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


needs_namespaces = pytest.mark.skipif(not can_isolate(), reason="this kernel gives no network namespaces")


def test_limits_priorities_and_rights_are_those_of_the_cage() -> None:
    cage = Cage(niceness=5, oom_score_adj=500, max_open_files=300, max_file_bytes=1 << 20, max_memory_bytes=1 << 34)
    found = look(cage)
    assert found["core"] == [0, 0]
    assert found["files"] == [300, 300]
    assert found["file_bytes"] == [1 << 20, 1 << 20]
    assert found["memory"] == [1 << 34, 1 << 34]
    assert found["no_new_privs"] == "1"
    assert found["oom"] == "500"
    assert found["nice"] == os.nice(0) + 5
    assert found["ids"][:2] == [os.getuid(), os.getgid()]


def test_a_limit_above_what_is_allowed_is_what_is_allowed() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert look(Cage(max_open_files=hard + 1))["files"] == [hard, hard]


def test_a_file_that_grows_beyond_the_limit_is_an_error_and_not_a_full_disk(tmp_path: Path) -> None:
    write = f"open({str(tmp_path / 'large')!r}, 'wb').write(bytes(1 << 21))"
    argv = [*Cage(max_file_bytes=1 << 20).build_prefix(), sys.executable, "-I", "-c", write]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "File too large" in done.stderr
    assert (tmp_path / "large").stat().st_size <= 1 << 20


@needs_namespaces
@pytest.mark.parametrize("mode", ["auto", "isolated"])
def test_without_network_there_is_a_loopback_of_its_own_and_nothing_else(mode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        assert look(Cage(), PORT=port)["host"] == "reached"
        found = look(Cage(network=mode), PORT=port)
    assert found["interfaces"] == ["lo"]
    assert found["host"] == "Connection refused"
    assert found["outside"] == "Network is unreachable"


@needs_namespaces
def test_processes_of_one_step_meet_on_its_loopback() -> None:
    meet = """
import os, socket
server = socket.create_server(("127.0.0.1", 0))
if os.fork() == 0:
    socket.create_connection(server.getsockname()).sendall(b"met")
    os._exit(0)
print(server.accept()[0].recv(3).decode())
"""
    argv = [*Cage(network="isolated").build_prefix(), sys.executable, "-I", "-c", meet]
    assert subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True).stdout == "met\n"


@needs_namespaces
@needs_root
def test_a_root_in_the_cage_cannot_walk_back_into_the_hosts_network() -> None:
    back = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
try:
    descriptor = os.open(f"/proc/{os.getppid()}/ns/net", os.O_RDONLY)
except OSError as error:
    print(error.strerror)
else:
    print(os.strerror(ctypes.get_errno()) if libc.setns(descriptor, 0) else "back")
"""
    argv = [*Cage(network="isolated").build_prefix(), sys.executable, "-I", "-c", back]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    assert said in ("Permission denied", "Operation not permitted")
    assert look(Cage(network="isolated"))["capabilities"] == "000000000080403b"


@needs_root
@pytest.mark.skipif(not Path(SYSTEM_PYTHON).exists(), reason="no interpreter that every user may run")
def test_another_user_has_its_own_ids_limits_and_no_rights() -> None:
    found = look(Cage(user=(NOBODY, NOBODY), max_processes=500, network="isolated"), python=SYSTEM_PYTHON)
    assert found["ids"] == [NOBODY, NOBODY, []]
    assert found["capabilities"] == "0000000000000000"
    assert found["processes"] == [500, 500]
    assert found["umask"] == 0o077
    assert found["interfaces"] == ["lo"]


@needs_root
@needs_namespaces
@pytest.mark.skipif(not Path(SYSTEM_PYTHON).exists(), reason="no interpreter that every user may run")
def test_a_user_without_rights_leaves_the_network_through_a_user_namespace() -> None:
    program = Cage().build_prefix()[3]
    inner = [SYSTEM_PYTHON, "-I", "-S", program, "--network=isolated", "--", SYSTEM_PYTHON, "-I", "-c", LOOK]
    outer = ["/usr/bin/setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *inner]
    found = json.loads(subprocess.run(outer, capture_output=True, text=True, check=True).stdout)
    assert found["ids"][:2] == [NOBODY, NOBODY]
    assert found["interfaces"] == ["lo"]
    assert found["outside"] == "Network is unreachable"


REFUSING = """
import errno, sys
sys.path.insert(0, sys.argv[1])
import cage
def refuse(name, *arguments):
    if name == "unshare":
        raise PermissionError(errno.EPERM, "Operation not permitted")
cage._call = refuse
sys.exit(cage.main(sys.argv[2:]))
"""


@pytest.mark.parametrize(
    ("mode", "status", "words"),
    [("auto", 0, "keeps the host's network"), ("isolated", 125, "FINESMITH_TRAINER_NETWORK=isolated")],
)
def test_where_the_kernel_refuses_auto_goes_on_and_isolated_does_not(mode, status, words) -> None:
    folder = Path(Cage().build_prefix()[3]).parent
    argv = [sys.executable, "-I", "-c", REFUSING, str(folder), f"--network={mode}", "--", "/bin/true"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert words in done.stderr


def test_a_program_that_is_not_there_is_told() -> None:
    argv = [*Cage().build_prefix(), "/no/such/program"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (127, "there is no program '/no/such/program'\n")


def test_the_cage_costs_less_than_60_ms_of_a_processor() -> None:
    argv = [*Cage(network="auto").build_prefix(), "/bin/true"]

    def measure() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(argv, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time: on a busy host the wall clock tells of other work.
    assert min(measure() for _ in range(5)) < 0.06
