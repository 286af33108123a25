"""The process that renders one preview: without a GPU, behind all other work on the host, killed with all below it."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from trainer_core.attempt.secrets_line import format_secrets
from trainer_core.watchdog import find_descendants

PREVIEW_ENTRY = ("-m", "trainer_core.preview_main")
_NICENESS = 10
_FIRST_TO_BE_KILLED = "1000"
_MAX_FILE_BYTES = 1 << 30
"""Of each file that it writes: what it prints must not fill the disk."""
_KILL_SECONDS = 10.0


class PreviewProcess:
    """A started process. Its stdin is held open by this one: when this process dies, it ends."""

    def __init__(
        self,
        folder: Path,
        *,
        env: Mapping[str, str],
        secrets: Mapping[str, str],
        entry: Sequence[str] = PREVIEW_ENTRY,
    ) -> None:
        with (folder / "output.log").open("ab", buffering=0) as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", *entry, "--folder", str(folder)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=dict(env),
                start_new_session=True,
            )
        # Training on the same host goes first, and is the last that the kernel should kill for memory.
        with suppress(OSError):
            resource.prlimit(self._popen.pid, resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
            os.setpriority(os.PRIO_PROCESS, self._popen.pid, _NICENESS)
            Path(f"/proc/{self._popen.pid}/oom_score_adj").write_text(_FIRST_TO_BE_KILLED)
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError):
            self._popen.stdin.write(format_secrets(secrets))
            self._popen.stdin.flush()

    def wait(self, timeout_seconds: float) -> int | None:
        """Returns the exit status (negative: a signal), or None when it has not ended by then."""
        try:
            return self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Kills it with its descendants, if it still lives, and closes its stdin."""
        if self._popen.poll() is None:
            with suppress(ProcessLookupError):
                # Stopped, it starts no further process while they are counted.
                os.killpg(self._popen.pid, signal.SIGSTOP)
            for pid in [*find_descendants(self._popen.pid), self._popen.pid]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._popen.wait(_KILL_SECONDS)
        if self._popen.stdin is not None:
            with suppress(BrokenPipeError):
                self._popen.stdin.close()
