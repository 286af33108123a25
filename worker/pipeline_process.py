"""The pipeline of one attempt as a child process: started, asked to stop, killed with all that it started."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from app.jobs.views import Claim
from app.settings import Settings
from trainer_core.attempt.secrets_line import format_secrets
from trainer_core.launch.cage_command import Cage, NetworkMode
from trainer_core.standby.hand_over import HandOver
from trainer_core.watchdog import kill_descendants
from trainer_core.workspace import Workspace
from worker.cage import build_job_cage, give_folder, protect_data_folder
from worker.environment import build_pipeline_environment
from worker.owners import make_owner_folder
from worker.standby import StandbyKeeper

PIPELINE_ENTRY = ("-m", "trainer_core.pipeline")


@dataclass(frozen=True, slots=True)
class PipelineProgram:
    """What runs an attempt."""

    entry: Sequence[str] = PIPELINE_ENTRY
    cage: Cage = field(default_factory=Cage)
    """Without `network`: the pipeline's steps leave that one by one, for the first may still have to fetch."""
    network: NetworkMode = "host"
    """Of the steps that load offline."""
    standby: StandbyKeeper | None = None
    """Where one may wait already; those that wait there are spared when the attempt's processes are killed."""


def start_pipeline(
    claim: Claim,
    *,
    workspace: Workspace,
    settings: Settings,
    start_folder: Path,
    entry: Sequence[str],
    standby: StandbyKeeper | None = None,
) -> "PipelineProcess":
    """Starts the pipeline of a claim in the cage that the settings ask for, with its owner's home. Raises OSError.

    One that waits at `standby` is taken where there is one; nothing is waited for.
    """
    protect_data_folder(settings)
    owner = make_owner_folder(settings, claim.owner)
    owner.prune(settings.owner_cache_max_bytes)
    with ExitStack() as stack:
        stack.enter_context(owner.hold())
        process = serve_attempt(
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
            program=PipelineProgram(
                entry=entry, cage=build_job_cage(settings), network=settings.trainer_network, standby=standby
            ),
        )
        process.closing.enter_context(stack.pop_all())
    return process


def serve_attempt(
    workspace: Workspace,
    *,
    attempt: int,
    env: Mapping[str, str],
    secrets: Mapping[str, str],
    program: PipelineProgram,
) -> "PipelineProcess":
    """Starts the pipeline of an attempt, or takes the one that waits; it has its secrets then. Raises OSError."""
    arguments = ("--workspace", str(workspace.root), "--attempt", str(attempt), "--network", program.network)
    # What the pipeline itself says, a traceback at worst, belongs to the job's output.
    with workspace.attempt(attempt).output.open("ab", buffering=0) as output:
        give_folder(workspace.root, program.cage.user)
        standby = program.standby
        taken = None if standby is None else standby.take(HandOver(arguments, str(workspace.root), env))
        if taken is not None:
            process = PipelineProcess(taken.popen, secrets=secrets, standby=standby)
            process.closing.callback(taken.forget_home)
            return process
        popen = subprocess.Popen(
            # -P: the folder it runs in is the workspace, and a file that lies there must not shadow a module.
            [*program.cage.build_prefix(), sys.executable, "-P", *program.entry, *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            cwd=workspace.root,
            env=dict(env),
            start_new_session=True,
        )
    return PipelineProcess(popen, secrets=secrets, standby=standby)


class PipelineProcess:
    """A started pipeline. Its stdin is held open by this process: when this process dies, all of it ends.

    Make the calling process a child subreaper before, and have no other children in it but those of `standby`: `kill`
    ends every other descendant.
    """

    def __init__(
        self,
        popen: "subprocess.Popen[bytes]",
        *,
        secrets: Mapping[str, str],
        standby: StandbyKeeper | None = None,
    ) -> None:
        """`popen`: a process that reads its secrets next."""
        self._popen = popen
        self._standby = standby
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
        kill_descendants(spared=self._list_spared())
        return status

    def close(self) -> None:
        """Ends what the pipeline may have left behind and closes its pipes; call it after it has ended."""
        kill_descendants(spared=self._list_spared())
        self.closing.close()
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _list_spared(self) -> tuple[int, ...]:
        return () if self._standby is None else self._standby.pids
