"""The pipeline of one attempt as a child process: started, asked to stop, killed with all that it started."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from app.jobs.views import Claim
from app.settings import Settings
from trainer_core.attempt.secrets_line import format_secrets
from trainer_core.launch.cage_command import Cage
from trainer_core.watchdog import kill_descendants
from trainer_core.workspace import Workspace
from worker.cage import build_job_cage, give_folder, protect_data_folder
from worker.environment import build_pipeline_environment
from worker.owners import make_owner_folder

PIPELINE_ENTRY = ("-m", "trainer_core.pipeline")
_NO_CAGE = Cage()


def start_pipeline(
    claim: Claim, *, workspace: Workspace, settings: Settings, start_folder: Path, entry: Sequence[str]
) -> "PipelineProcess":
    """Starts the pipeline of a claim in the cage that the settings ask for, with its owner's home. Raises OSError."""
    protect_data_folder(settings)
    owner = make_owner_folder(settings, claim.owner)
    owner.prune(settings.owner_cache_max_bytes)
    with ExitStack() as stack:
        stack.enter_context(owner.hold())
        process = PipelineProcess(
            workspace,
            attempt=claim.attempt,
            env=build_pipeline_environment(
                os.environ,
                gpus=claim.gpus,
                start_folder=start_folder,
                owner=owner,
                shared_hub_cache=settings.shared_hub_cache,
            ),
            secrets=claim.secrets,
            # Its steps leave the network one by one: the first of them may still have to fetch.
            entry=(*entry, "--network", settings.trainer_network),
            cage=build_job_cage(settings),
        )
        process.closing = stack.pop_all()
    return process


class PipelineProcess:
    """A started pipeline. Its stdin is held open by this process: when this process dies, all of it ends.

    Make the calling process a child subreaper before, and have no other children in it: `kill` ends every descendant.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        attempt: int,
        env: Mapping[str, str],
        secrets: Mapping[str, str],
        entry: Sequence[str] = PIPELINE_ENTRY,
        cage: Cage = _NO_CAGE,
    ) -> None:
        # What the pipeline itself says, a traceback at worst, belongs to the job's output.
        with workspace.attempt(attempt).output.open("ab", buffering=0) as output:
            give_folder(workspace.root, cage.user)
            arguments = ("--workspace", str(workspace.root), "--attempt", str(attempt))
            self._popen = subprocess.Popen(
                # -P: the folder it runs in is the workspace, and a file that lies there must not shadow a module.
                [*cage.build_prefix(), sys.executable, "-P", *entry, *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                cwd=workspace.root,
                env=dict(env),
                start_new_session=True,
            )
        self.closing = ExitStack()
        """What ends with the process."""
        assert self._popen.stdin is not None
        with suppress(BrokenPipeError):
            self._popen.stdin.write(format_secrets(secrets))
            self._popen.stdin.flush()

    @property
    def pid(self) -> int:
        """The pipeline's process id, which is its session's and its group's too."""
        return self._popen.pid

    def wait(self, timeout_seconds: float) -> int | None:
        """Returns the exit status (negative: a signal), or None when it has not ended by then."""
        try:
            return self._popen.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return None

    def ask_to_stop(self) -> None:
        """Sends SIGTERM to the pipeline, which hands it on to the step: train saves a checkpoint first."""
        self._popen.send_signal(signal.SIGTERM)

    def kill(self) -> int:
        """Kills the pipeline's group and every other descendant; returns the pipeline's exit status."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        status = self._popen.wait()
        kill_descendants()
        return status

    def close(self) -> None:
        """Ends what the pipeline may have left behind and closes its stdin; call it after it has ended."""
        kill_descendants()
        self.closing.close()
        if self._popen.stdin is not None:
            with suppress(BrokenPipeError):
                self._popen.stdin.close()
