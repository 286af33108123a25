"""Starts ranks as torchrun's agent does: each in a session of its own, all ended when one fails."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

POLL_SECONDS = 0.05


def run_ranks(num_ranks: int, argv: Sequence[str]) -> int:
    """Returns 0 when all ended well, else 1."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-P", *argv],
            env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks)},
            start_new_session=True,
        )
        for rank in range(num_ranks)
    ]
    while any(rank.poll() is None for rank in ranks):
        if any(rank.poll() not in (None, 0) for rank in ranks):
            for rank in ranks:
                rank.send_signal(signal.SIGTERM)
            break
        time.sleep(POLL_SECONDS)
    return 0 if all(rank.wait() == 0 for rank in ranks) else 1


if __name__ == "__main__":
    sys.exit(run_ranks(int(sys.argv[1]), sys.argv[2:]))
