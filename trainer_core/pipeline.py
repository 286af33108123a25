"""Runs the steps of one attempt, each as its own process, and ends all of them when the worker is gone.

`python -m trainer_core.pipeline --workspace ROOT --attempt N [--network MODE]`. Stdin: one line of secrets, then held
open by the worker. It imports nothing heavy, so that it hears of a closed pipe at once. Exit status: 0; 1, see
`result.json`; 74, the disk is full; 75, stopped as asked. With `--standby ROOM [--network MODE]` it waits to be told
the rest, and steps get ready beneath: see `trainer_core.standby`.
"""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import get_args

from trainer_core.attempt.host_memory import count_oom_kills
from trainer_core.attempt.log_sink import LogSink
from trainer_core.attempt.markers import find_done_marker
from trainer_core.attempt.outcome import (
    EXIT_DISK_FULL,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_SUCCEEDED,
    AttemptResult,
    Failure,
    read_failure,
    write_result,
)
from trainer_core.attempt.public_names import build_redactor
from trainer_core.attempt.push_record import is_pushed
from trainer_core.attempt.ranks import classify_ranks_exit
from trainer_core.attempt.secrets_line import mask_secret, read_secrets
from trainer_core.attempt.staged_inputs import are_inputs_staged, read_staged_record
from trainer_core.attempt.step_exit import classify_step_exit
from trainer_core.attempt.tracking_relay import reports_elsewhere, tell_end
from trainer_core.enums import Step
from trainer_core.errors import DiskFullError
from trainer_core.events import EventWriter
from trainer_core.hub.targets import PushTarget
from trainer_core.job_spec import JobSpec
from trainer_core.launch.base import Launcher, LaunchRequest
from trainer_core.launch.by_resources import LauncherByResources
from trainer_core.launch.cage_command import Cage, NetworkMode
from trainer_core.launch.single import SingleLauncher
from trainer_core.launch.step_process import StepProcess, start_step
from trainer_core.plugins import has_plugins
from trainer_core.standby.waiting import EXIT_UNUSED, start_warm_steps, wait_for_attempt
from trainer_core.standby.warm_steps import WarmSteps
from trainer_core.trace_context import build_trace_environment
from trainer_core.watchdog import become_subreaper, exit_when_stdin_closes, kill_descendants
from trainer_core.workspace import Workspace

PIPELINE_ENTRY = ("-m", "trainer_core.pipeline")
_STAGE_ENTRY = ("-m", "trainer_core.stage_main")
_PUSH_ENTRY = ("-m", "trainer_core.push_main")
_TRACK_ENTRY = ("-m", "trainer_core.track_main")
_WARM_ENTRY = ("-m", "trainer_core.warm_main")
_FOLLOW_ENTRY = (*_PUSH_ENTRY, "--follow")
_PUSH_KEYS = ("push_to_hub", "hub_model_id", "fused_hub_model_id", "quantized_hub_model_id")

_TOKEN = "huggingface_hub_token"
_TRACKER_KEY = "wandb_api_key"
JOB_ENVIRONMENT = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
"""A job reads and writes with the token that it was given: never with the login of whoever runs the worker."""

_TRACKER_SECONDS = 120.0
_STOPPED_TRACKER_SECONDS = 5.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Launchers:
    """How each kind of process is started."""

    step: Launcher | None = None
    """None: by the job's number of processes and its Config."""
    stage: Launcher = field(default_factory=lambda: SingleLauncher(entry=_STAGE_ENTRY))
    """Fetches a job's inputs where no step does."""
    push: Launcher = field(default_factory=lambda: SingleLauncher(entry=_PUSH_ENTRY))
    """Pushes what a done step made."""
    follow: Launcher = field(default_factory=lambda: SingleLauncher(entry=_FOLLOW_ENTRY))
    """Pushes checkpoints beside the training."""
    track: Launcher = field(default_factory=lambda: SingleLauncher(entry=_TRACK_ENTRY))
    """Sends metrics to trackers beside the training."""
    warm: WarmSteps = field(default_factory=WarmSteps)
    """Steps that were started ahead of the job, and are used where the step is one process."""
    warm_entry: Sequence[str] = _WARM_ENTRY
    """The program of those."""


class StopRequest:
    """SIGTERM to the pipeline: remembered, and handed on to the step that runs."""

    def __init__(self) -> None:
        self.is_set = False
        self._process: StepProcess | None = None

    def watch(self, process: StepProcess | None) -> None:
        """Names the process to hand the signal to; hands it on at once when the request came before."""
        self._process = process
        if process is not None and self.is_set:
            process.request_stop()

    def handle_signal(self, number: int, frame: FrameType | None) -> None:
        """The handler of SIGTERM and SIGINT."""
        self.is_set = True
        if self._process is not None:
            self._process.request_stop()


class Pipeline:
    """One attempt at one job."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        spec: JobSpec,
        secrets: Mapping[str, str],
        launchers: Launchers,
        stop: StopRequest,
        network: NetworkMode = "host",
    ) -> None:
        """`network`: that of processes that load offline."""
        self._workspace = workspace
        self._spec = spec
        self._secrets = secrets
        self._launchers = launchers
        self._step_launcher = launchers.step or LauncherByResources(spec.config)
        self._stop = stop
        self._network: NetworkMode = network
        self._redactor = build_redactor(spec, workspace=workspace, secrets=secrets)
        self._attempt = workspace.attempt(spec.attempt)
        self._tracker: StepProcess | None = None

    def run(self) -> AttemptResult:
        """Runs the steps that are not done, in order, until one does not succeed. Raises OSError for a full disk.

        A push that fails holds no step up: what the others make is worth having. It fails the attempt at its end.
        """
        push_failure: AttemptResult | None = None
        for step in self._spec.steps:
            if self._stop.is_set:
                return AttemptResult("interrupted")
            result = self._run_step(step)
            self._launchers.warm.end(but=[other for other in self._spec.steps if other is not step])
            if result.status != "succeeded":
                return result
            pushed = self._push_result(step)
            if pushed.status == "interrupted":
                return pushed
            if pushed.status == "failed":
                push_failure = push_failure or pushed
        return push_failure or AttemptResult("succeeded")

    def _run_step(self, step: Step) -> AttemptResult:
        marker = find_done_marker(self._workspace, spec=self._spec, step=step)
        if marker is not None:
            with EventWriter(self._attempt.events, step=step) as events:
                events.emit("step.skipped", message=f"{step} is already done", data={"facts": dict(marker.facts)})
            return AttemptResult("succeeded")
        if step is not Step.PREPARE and not are_inputs_staged(self._workspace):
            # Prepare stages what it and the others read; without it somebody has to, for the others are offline.
            staged = self._run_process(step, launcher=self._launchers.stage, is_offline=False)
            if staged.status != "succeeded":
                return staged
        with self._pushing_checkpoints(step), self._tracking(step):
            result = self._run_process(step, launcher=self._step_launcher, is_offline=step is not Step.PREPARE)
        if result.status == "succeeded" and find_done_marker(self._workspace, spec=self._spec, step=step) is None:
            message = f"the step {step} ended without an error but left no complete outputs"
            return AttemptResult("failed", Failure("internal_error", message, step=step))
        return result

    def _push_result(self, step: Step) -> AttemptResult:
        if not self._may_push(step):
            return AttemptResult("succeeded")
        return self._run_process(step, launcher=self._launchers.push, is_offline=False)

    def _may_push(self, step: Step) -> bool:
        """Whether the step may have something to push: surely where inputs were staged, else by a look at the Config.

        On another host, where only a push is left to do, nothing was staged, and the push's own process knows.
        """
        if step is Step.PREPARE:
            return False
        target = self._find_push_target(step)
        if target is not None:
            return not is_pushed(self._workspace, target)
        if read_staged_record(self._workspace) is not None:
            return False
        config = self._spec.config
        return any(config.get(key) for key in _PUSH_KEYS) or config.get("config_key", "base") != "base"

    def _find_push_target(self, step: Step) -> PushTarget | None:
        record = read_staged_record(self._workspace)
        return None if record is None else next((each for each in record.push_targets if each.step is step), None)

    @contextmanager
    def _pushing_checkpoints(self, step: Step) -> Iterator[None]:
        """Beside the training a process pushes its checkpoints; it ends with the step, in mid-push if need be: what it
        was at is pushed again, or has given way to the result."""
        if step is not Step.TRAIN or self._find_push_target(step) is None:
            yield
            return
        with LogSink(self._attempt.output, redactor=self._redactor) as sink:
            process = self._start(step, launcher=self._launchers.follow, is_offline=False, sink=sink)
            try:
                yield
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()

    @contextmanager
    def _tracking(self, step: Step) -> Iterator[None]:
        """Beside the training a process sends its metrics to the trackers: the training has neither network nor key."""
        if step is not Step.TRAIN or not reports_elsewhere(self._spec.config):
            yield
            return
        self._attempt.tracking.unlink(missing_ok=True)
        with LogSink(self._attempt.output, redactor=self._redactor) as sink:
            self._tracker = self._start(step, launcher=self._launchers.track, is_offline=False, sink=sink)
            try:
                yield
            finally:
                tell_end(self._attempt.tracking)
                self._wait_for_tracker(self._tracker)
                self._tracker = None

    def _wait_for_tracker(self, tracker: StepProcess) -> None:
        """Waits a limited time for what is not sent yet, a short one when the attempt is to stop; then kills it."""
        waited_seconds = 0.0
        while waited_seconds < (_STOPPED_TRACKER_SECONDS if self._stop.is_set else _TRACKER_SECONDS):
            if tracker.wait_briefly(_POLL_SECONDS):
                break
            waited_seconds += _POLL_SECONDS
        tracker.send_signal(signal.SIGKILL)
        tracker.wait()

    def _start(self, step: Step, *, launcher: Launcher, is_offline: bool, sink: LogSink) -> StepProcess:
        is_distributed = self._is_distributed(step, launcher)
        num_processes = self._spec.num_processes if is_distributed else 1
        request = LaunchRequest(self._workspace.root, self._spec.attempt, step, num_processes=num_processes)
        env = {
            **JOB_ENVIRONMENT,
            **build_trace_environment(step),
            **(self._build_offline_environment() if is_offline else {}),
        }
        secrets = self._choose_secrets(launcher, is_offline=is_offline)
        if launcher is self._step_launcher and not is_distributed:
            warm = self._launchers.warm.start(request, env={**os.environ, **env}, secrets=secrets, sink=sink)
            if warm is not None:
                return warm
        command = launcher.build_command(request)
        if is_offline:
            # With more than one process the launcher is in it too: its ranks meet on the loopback that they share.
            command = replace(command, argv=(*Cage(network=self._network).build_prefix(), *command.argv))
        return start_step(command, folder=self._workspace.root, env=env, secrets=secrets, sink=sink)

    def _build_offline_environment(self) -> dict[str, str]:
        """Components that use W&B themselves must not wait for a network; our own tracker has the worker's mode."""
        keeps_mode = "WANDB_MODE" in os.environ or reports_elsewhere(self._spec.config)
        return {"HF_HUB_OFFLINE": "1", **({} if keeps_mode else {"WANDB_MODE": "offline"})}

    def _choose_secrets(self, launcher: Launcher, *, is_offline: bool) -> dict[str, str]:
        """What the process needs: a process that loads offline has nobody to show a secret to."""
        key = self._secrets.get(_TRACKER_KEY)
        if launcher is self._launchers.track:
            return {} if key is None else {_TRACKER_KEY: key}
        # In place of the key something that looks like it: whether there is one is checked before the training.
        chosen = {} if key is None else {_TRACKER_KEY: mask_secret(key)}
        token = self._secrets.get(_TOKEN)
        return chosen if is_offline or token is None else {**chosen, _TOKEN: token}

    def _is_distributed(self, step: Step, launcher: Launcher) -> bool:
        return step is Step.TRAIN and launcher is self._step_launcher and self._spec.num_processes > 1

    def _run_process(self, step: Step, *, launcher: Launcher, is_offline: bool) -> AttemptResult:
        failure_path = self._attempt.step_error(step)
        failure_path.unlink(missing_ok=True)
        oom_kills_before = count_oom_kills()
        with LogSink(self._attempt.output, redactor=self._redactor) as sink:
            process = self._start(step, launcher=launcher, is_offline=is_offline, sink=sink)
            self._stop.watch(process)
            tracker = () if self._tracker is None else (self._tracker.pid,)
            status = process.wait(spared=(*tracker, *self._launchers.warm.pids))
            self._stop.watch(None)
        classify = classify_ranks_exit if self._is_distributed(step, launcher) else classify_step_exit
        return classify(
            status,
            step=step,
            failure=read_failure(failure_path),
            was_stopped=self._stop.is_set,
            had_oom_kill=count_oom_kills() > oom_kills_before,
        )


def main(arguments: Sequence[str] | None = None, *, launchers: Launchers | None = None) -> int:
    """Runs one attempt and returns the exit status. Takes over this process's stdin and signals."""
    options = _parse(arguments)
    launchers = launchers or Launchers()
    if options.standby is not None:
        become_subreaper()
        steps = start_warm_steps(
            launchers.warm_entry, network=options.network, env=JOB_ENVIRONMENT, num_room_bytes=len(options.standby)
        )
        given = wait_for_attempt(steps, entry=PIPELINE_ENTRY, find_output=lambda given: _find_output(_parse(given)))
        if given is None:
            kill_descendants()
            return EXIT_UNUSED
        options = _parse(given)
        launchers = replace(launchers, warm=WarmSteps(steps))

    stop = StopRequest()
    signal.signal(signal.SIGTERM, stop.handle_signal)
    signal.signal(signal.SIGINT, stop.handle_signal)
    become_subreaper()
    secrets = read_secrets()
    exit_when_stdin_closes(kill_descendants)
    return _run_attempt(options, secrets=secrets, launchers=launchers, stop=stop)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer_core.pipeline")
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--attempt", type=int)
    parser.add_argument("--network", choices=get_args(NetworkMode), default="host")
    parser.add_argument("--standby", metavar="ROOM")
    options = parser.parse_args(arguments)
    if options.standby is None and (options.workspace is None or options.attempt is None):
        parser.error("--workspace and --attempt are needed")
    return options


def _find_output(options: argparse.Namespace) -> Path:
    return Workspace(options.workspace).attempt(options.attempt).output


def _run_attempt(
    options: argparse.Namespace, *, secrets: Mapping[str, str], launchers: Launchers, stop: StopRequest
) -> int:
    workspace = Workspace(options.workspace)
    attempt = workspace.attempt(options.attempt)
    try:
        spec = JobSpec.from_json(attempt.job.read_text())
        launchers.warm.end(but=() if has_plugins(spec.plugins) else spec.steps)
        pipeline = Pipeline(
            workspace, spec=spec, secrets=secrets, launchers=launchers, stop=stop, network=options.network
        )
        return _finish(attempt.result, pipeline.run())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return EXIT_DISK_FULL


def _finish(path: Path, result: AttemptResult) -> int:
    if result.error is not None and result.error.code == DiskFullError.code:
        # The exit status alone must tell it: what little room there is may be gone before the file is written.
        try:
            write_result(path, result)
        except OSError:
            return EXIT_DISK_FULL
        return EXIT_FAILED
    write_result(path, result)
    return {"succeeded": EXIT_SUCCEEDED, "failed": EXIT_FAILED, "interrupted": EXIT_INTERRUPTED}[result.status]


if __name__ == "__main__":
    sys.exit(main())
