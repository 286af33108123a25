"""The process that renders one preview: without a GPU, behind all other work on the host, killed with all below it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from trainer_core.attempt.secrets_line import format_secrets
from trainer_core.launch.cage_command import Cage
from trainer_core.watchdog import find_descendants
from worker.cage import give_folder

PREVIEW_ENTRY = ("-m", "trainer_core.preview_main")
_KILL_SECONDS = 10.0


class PreviewProcess:
    """A started process. Its stdin is held open by this one: when this process dies, it ends."""

    def __init__(
        self,
        folder: Path,
        *,
        env: Mapping[str, str],
        secrets: Mapping[str, str],
        cage: Cage,
        entry: Sequence[str] = PREVIEW_ENTRY,
    ) -> None:
        with (folder / "output.log").open("ab", buffering=0) as output:
            give_folder(folder, cage.user)
            self._popen = subprocess.Popen(
                [*cage.build_prefix(), sys.executable, "-P", *entry, "--folder", str(folder)],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=dict(env),
                start_new_session=True,
            )
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
