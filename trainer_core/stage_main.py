"""Fetches a job's hub inputs in a process of its own: for jobs whose steps all load offline.

`python -m trainer_core.stage_main --workspace ROOT --attempt N --step STEP`, where STEP is the step that waits and
that carries the error if there is one. Exit statuses as `trainer_core.step_main`.
"""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

from trainer_core.attempt.outcome import EXIT_TERMINATED
from trainer_core.attempt.public_names import build_redactor
from trainer_core.attempt.secrets_line import read_secrets
from trainer_core.attempt.staged_inputs import StageFunction, stage_from_hub
from trainer_core.job_spec import JobSpec
from trainer_core.plugins import load_plugins
from trainer_core.step_main import guard_step, parse_step_arguments, stage_inputs
from trainer_core.watchdog import exit_when_stdin_closes, kill_descendants
from trainer_core.workspace import Workspace


def main(arguments: Sequence[str] | None = None, *, stage: StageFunction = stage_from_hub) -> int:
    """Stages the inputs and returns the exit status. Takes over this process's stdin and signals."""
    options = parse_step_arguments(arguments, program="python -m trainer_core.stage_main")
    signal.signal(signal.SIGTERM, _exit_terminated)
    secrets = read_secrets()
    exit_when_stdin_closes(kill_descendants)
    workspace = Workspace(options.workspace)
    spec = JobSpec.from_json(workspace.attempt(options.attempt).job.read_text())

    def run(events: object) -> None:
        load_plugins(spec.plugins)
        stage_inputs(spec, workspace=workspace, secrets=secrets, stage=stage)

    return guard_step(
        run,
        workspace=workspace,
        attempt=options.attempt,
        step=options.step,
        redactor=build_redactor(spec, workspace=workspace, secrets=secrets),
    )


def _exit_terminated(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
