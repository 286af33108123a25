"""The command that starts another one in a cage: see `trainer_core.cage`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

NetworkMode = Literal["auto", "isolated", "host"]

_PROGRAM = Path(__file__).resolve().parents[1] / "cage.py"


@dataclass(frozen=True, slots=True)
class Cage:
    """What a process and all that it starts are held to. The defaults hold to nothing but no core files."""

    user: tuple[int, int] | None = None
    """uid and gid to become. None: those of the starter."""
    niceness: int = 0
    """Added to the starter's."""
    oom_score_adj: int | None = None
    """How gladly the kernel kills it when memory runs out, up to 1000. None: as the starter."""
    max_open_files: int | None = None
    max_processes: int | None = None
    """Of the whole user, threads counted: for a user of the cage's own only."""
    max_file_bytes: int | None = None
    """Largest file that it writes."""
    max_memory_bytes: int | None = None
    """Address space of each process, in which CUDA reserves far more than it uses."""
    network: NetworkMode = "host"

    def build_prefix(self) -> tuple[str, ...]:
        """Returns what goes before the program's own argv."""
        given = {
            # Files that it makes are for its own user, whatever the starter's are.
            "umask": None if self.user is None else "077",
            "nice": self.niceness or None,
            "oom": self.oom_score_adj,
            "core": 0,
            "open-files": self.max_open_files,
            "processes": self.max_processes,
            "file-bytes": self.max_file_bytes,
            "memory-bytes": self.max_memory_bytes,
            "user": None if self.user is None else f"{self.user[0]}:{self.user[1]}",
            "network": self.network,
        }
        options = (f"--{name}={value}" for name, value in given.items() if value is not None)
        # -I, -S: nothing that lies in a folder or a variable is loaded, and it starts in 15 ms.
        return (sys.executable, "-I", "-S", str(_PROGRAM), *options, "--")
