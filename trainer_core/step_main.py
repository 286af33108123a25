"""Runs one step in one process, or one rank of it below a launcher.

`python -m trainer_core.step_main --workspace ROOT --attempt N --step train`. Stdin: one line of secrets for each rank,
then held open by the pipeline. Exit status: 0, the done marker is written; 1, see the attempt's `error-<step>.json`;
74, the disk is full; 75 or 143, stopped as asked. A rank that was stopped ends with 0, so that its launcher lets the
others save, and `error-<step>.json` tells of it. Only the first rank writes events and the done marker.
"""

import argparse
import importlib
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

from trainer_core.attempt.markers import DoneMarker, write_marker
from trainer_core.attempt.outcome import (
    EXIT_DISK_FULL,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_SUCCEEDED,
    EXIT_TERMINATED,
    Failure,
)
from trainer_core.attempt.public_names import build_redactor, list_public_names
from trainer_core.attempt.ranks import (
    INTERRUPTED,
    StopFile,
    describe_lost_peer,
    take_turns,
    write_rank_failure,
)
from trainer_core.attempt.secrets_line import read_secrets
from trainer_core.attempt.staged_inputs import (
    StagedRecord,
    StageFunction,
    read_staged_record,
    stage_from_hub,
    write_staged_record,
)
from trainer_core.attempt.step_config import build_step_config, build_user_config
from trainer_core.attempt.step_failure import describe_failure
from trainer_core.attempt.step_sources import describe_sources
from trainer_core.config import Config, Step
from trainer_core.context import StepContext, StepResult, StopFlag
from trainer_core.errors import DiskFullError, StepInterrupted
from trainer_core.events import EventWriter
from trainer_core.job_spec import JobSpec
from trainer_core.plugins import load_plugins
from trainer_core.process_end import end_process, leave_group
from trainer_core.ranks import count_ranks, find_rank, is_first_rank
from trainer_core.redaction import Redactor
from trainer_core.watchdog import exit_when_stdin_closes, exit_when_stdin_hangs_up, kill_descendants
from trainer_core.workspace import Workspace

StepFunction = Callable[[Config, StepContext], StepResult]
LoadStep = Callable[[Step], StepFunction]


class StepRun:
    """One step of one attempt, from its inputs to its done marker."""

    def __init__(
        self,
        spec: JobSpec,
        *,
        step: Step,
        workspace: Workspace,
        secrets: Mapping[str, str],
        stop: StopFlag,
        redactor: Redactor,
    ) -> None:
        self._spec = spec
        self._step = step
        self._workspace = workspace
        self._secrets = secrets
        self._stop = stop
        self._redactor = redactor

    def run(self, events: EventWriter, *, load_step: LoadStep, stage: StageFunction, is_warm: bool = False) -> None:
        """Runs the step. Raises whatever the step raises, and StepInterrupted when it was asked to stop."""
        started_at = time.monotonic()
        events.emit(
            "step.started",
            message=f"{self._step} has started",
            data={"inputs": describe_sources(self._spec, self._step), "warm": is_warm},
        )
        run_step = load_step(self._step)
        for failure in load_plugins(self._spec.plugins):
            events.emit("warning", message=f"the plugin {failure.plugin!r} failed: {failure.message}", level="warning")
        import_seconds = time.monotonic() - started_at
        staged = stage_inputs(self._spec, workspace=self._workspace, secrets=self._secrets, stage=stage)
        # What was fetched just now lies in folders that nobody outside knows.
        self._redactor.name_paths(list_public_names(self._spec, workspace=self._workspace))
        config = build_step_config(
            self._spec,
            workspace=self._workspace,
            staged=staged,
            secrets=self._secrets,
            is_preparing=self._step is Step.PREPARE,
        )
        context = StepContext(
            step=self._step,
            events=events,
            inputs=self._spec.inputs,
            stop=self._stop,
            model_id=self._redactor.redact_text(str(self._spec.config.get("model_name_or_path"))),
            redactor=self._redactor,
            tracking=self._workspace.attempt(self._spec.attempt).tracking,
        )
        if self._stop.is_set:
            raise StepInterrupted(f"{self._step} was stopped before it began")
        result = _name_revisions(run_step(config, context), staged)
        leave_group()
        if not is_first_rank():
            return
        marker = write_marker(self._workspace, spec=self._spec, step=self._step, result=result)
        events.emit(
            "step.finished",
            message=f"{self._step} has finished",
            data=_describe_finish(marker, seconds=time.monotonic() - started_at, import_seconds=import_seconds),
        )


def stage_inputs(
    spec: JobSpec, *, workspace: Workspace, secrets: Mapping[str, str], stage: StageFunction
) -> StagedRecord:
    """Returns what is staged, fetching it first where it is not. Load plugins before. Raises ModelLoadError."""
    record = read_staged_record(workspace)
    if record is not None:
        return record
    staged = stage(build_user_config(spec, secrets=secrets), spec.steps, inputs=spec.inputs)
    return write_staged_record(workspace, staged)


def load_step_function(step: Step) -> StepFunction:
    """Imports a step's module, and with it torch where the step needs it."""
    function = getattr(importlib.import_module(f"trainer_core.steps.{step}"), step.value)

    def run_step(config: Config, context: StepContext) -> StepResult:
        outcome = function(config, context=context)
        # train returns its Experiment, which scripts go on working with.
        result = outcome if isinstance(outcome, StepResult) else outcome.result
        if not isinstance(result, StepResult):
            raise TypeError(f"{step} returned a {type(result).__name__} where a StepResult is due")
        return result

    return run_step


def main(
    arguments: Sequence[str] | None = None,
    *,
    load_step: LoadStep = load_step_function,
    stage: StageFunction = stage_from_hub,
    is_warm: bool = False,
) -> int:
    """Runs one step and returns the exit status. Takes over this process's stdin and signals.

    `is_warm` says that the step's libraries are loaded already.
    """
    options = parse_step_arguments(arguments, program="python -m trainer_core.step_main")
    workspace = Workspace(options.workspace)
    attempt = workspace.attempt(options.attempt)
    stop: StopFlag
    if count_ranks() > 1:
        # SIGTERM is the launcher's, when another rank has failed: there is nothing to save together any more.
        stop = StopFile(attempt.step_stop(options.step))
        with take_turns(attempt.job):
            secrets = read_secrets()
        exit_when_stdin_hangs_up(kill_descendants)
    else:
        stop = StopFlag()
        install_stop_handler(options.step, stop)
        secrets = read_secrets()
        exit_when_stdin_closes(kill_descendants)
    logging.basicConfig(level=logging.INFO, format=f"{_describe_rank()}%(levelname)s %(name)s: %(message)s")

    spec = JobSpec.from_json(attempt.job.read_text())
    redactor = build_redactor(spec, workspace=workspace, secrets=secrets)
    run = StepRun(spec, step=options.step, workspace=workspace, secrets=secrets, stop=stop, redactor=redactor)
    return guard_step(
        lambda events: run.run(events, load_step=load_step, stage=stage, is_warm=is_warm),
        workspace=workspace,
        attempt=options.attempt,
        step=options.step,
        redactor=redactor,
    )


def parse_step_arguments(arguments: Sequence[str] | None, *, program: str) -> argparse.Namespace:
    """Reads `--workspace`, `--attempt` and `--step`; ends the process with status 2 for anything else."""
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--step", type=Step, required=True)
    return parser.parse_args(arguments)


def install_stop_handler(step: Step, stop: StopFlag) -> None:
    """Makes SIGTERM ask train to save and stop, and end any other step at once: what it made so far counts for nothing.

    Processes forked from this one die of SIGTERM as usual: pools of workers end theirs with it.
    """
    main_pid = os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        if os.getpid() != main_pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        elif step is Step.TRAIN:
            stop.set()
        else:
            os._exit(EXIT_TERMINATED)

    signal.signal(signal.SIGTERM, handle)


def guard_step(
    run: Callable[[EventWriter], None], *, workspace: Workspace, attempt: int, step: Step, redactor: Redactor
) -> int:
    """Calls `run` with the attempt's events and returns the exit status; an error is printed and written down."""
    folder = workspace.attempt(attempt)
    is_rank = count_ranks() > 1
    try:
        # Every rank has the same to tell: what any but the first emits goes nowhere.
        with EventWriter(
            folder.events if is_first_rank() else Path(os.devnull), step=step, redactor=redactor
        ) as events:
            run(events)
    except StepInterrupted as error:
        if not is_rank:
            return EXIT_INTERRUPTED
        leave_group()
        # With any other status the launcher would end ranks that are still saving.
        _record_failure(folder.step_error(step), Failure(INTERRUPTED, str(error), step=step), redactor)
    # A step runs users' code and a dozen libraries: whatever they raise ends here, in a code and in the log.
    except BaseException as error:  # noqa: BLE001
        traceback.print_exc()
        failure = describe_failure(error, step=step, folder=workspace.root)
        if is_rank:
            failure = describe_lost_peer(error, failure)
        return _record_failure(folder.step_error(step), failure, redactor)
    return EXIT_SUCCEEDED


def _describe_rank() -> str:
    return f"[rank {find_rank()}] " if count_ranks() > 1 else ""


def _record_failure(path: Path, failure: Failure, redactor: Redactor) -> int:
    clean = Failure(
        failure.code,
        redactor.redact_text(failure.message),
        param=failure.param,
        step=failure.step,
        retryable=failure.retryable,
    )
    try:
        write_rank_failure(path, clean)
    except OSError:
        return EXIT_DISK_FULL if clean.code == DiskFullError.code else EXIT_FAILED
    return EXIT_FAILED


def _name_revisions(result: StepResult, staged: StagedRecord) -> StepResult:
    """What the step is made of: the commits of the repositories that were fetched for the job."""
    if not staged.revisions:
        return result
    return replace(result, facts={**result.facts, "revisions": dict(staged.revisions)})


def _describe_finish(marker: DoneMarker, *, seconds: float, import_seconds: float) -> dict[str, object]:
    return {
        "seconds": round(seconds, 3),
        "import_seconds": round(import_seconds, 3),
        "artifacts": [folder.name for folder in marker.folders],
        "num_bytes": sum(file.num_bytes for folder in marker.folders for file in folder.files),
        "facts": dict(marker.facts),
    }


if __name__ == "__main__":
    end_process(main())
