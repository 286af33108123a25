"""Evidence that the kernel killed a process because the host's memory ran out."""

from pathlib import Path


def count_oom_kills() -> int:
    """Returns a counter that grows whenever the kernel kills for memory, here or in this process's cgroup.

    Compare two readings; the absolute value says nothing. 0 where the kernel tells neither.
    """
    return _read_counter(Path("/proc/vmstat")) + sum(_read_counter(path) for path in _cgroup_event_files())


def _cgroup_event_files() -> list[Path]:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = [line.partition("::")[2].lstrip("/") for line in lines if line.startswith("0::")]
    return [Path("/sys/fs/cgroup") / folder / "memory.events" for folder in folders]


def _read_counter(path: Path) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.split()[:1] == ["oom_kill"])
