"""Which of several processes this one is, as every launcher tells it: by RANK and WORLD_SIZE."""

import os


def find_rank() -> int:
    """This process's rank; 0 when it is alone."""
    return int(os.environ.get("RANK") or 0)


def count_ranks() -> int:
    """The processes that train together; 1 when no launcher has started this one."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_first_rank() -> bool:
    """True for the one that writes events, markers and artifacts."""
    return find_rank() == 0


def is_started_by_launcher() -> bool:
    """Whether torchrun, DeepSpeed's launcher or their like has named this process's place among others."""
    return all(os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
