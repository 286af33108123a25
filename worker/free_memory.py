"""How much memory this host has left, or the container that this process runs in."""

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def read_free_memory_bytes(*, meminfo: Path = Path("/proc/meminfo"), cgroup: Path = _CGROUP) -> int:
    """The lesser of the two; 0 when the kernel does not say."""
    free_bytes = _read_available(meminfo)
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used_bytes = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return free_bytes
    return free_bytes if limit == "max" else max(0, min(free_bytes, int(limit) - used_bytes))


def _read_available(meminfo: Path) -> int:
    try:
        for line in meminfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return 0
