"""Pushes what a job's steps make to a hub, in a process of its own: the steps are offline and need no token for it.

`python -m trainer_core.push_main [--follow] --workspace ROOT --attempt N --step STEP`. Without `--follow` it pushes
what the done step made; exit statuses as `trainer_core.step_main`. With it, it runs beside the step train and pushes
every whole checkpoint, the newest first, until it is killed; what fails is a warning.
"""

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from huggingface_hub.utils.tqdm import disable_progress_bars

from trainer_core.attempt.job_push import CHECKPOINT, JobPusher
from trainer_core.attempt.outcome import EXIT_TERMINATED
from trainer_core.attempt.public_names import build_redactor
from trainer_core.attempt.push_record import read_push_records
from trainer_core.attempt.secrets_line import read_secrets
from trainer_core.attempt.step_config import build_user_config
from trainer_core.checkpoints import list_complete
from trainer_core.context import EventSink
from trainer_core.enums import Step
from trainer_core.errors import TrainerError
from trainer_core.events import EventWriter
from trainer_core.hub.access import prepare_repositories
from trainer_core.hub.session import bound_waiting
from trainer_core.hub.targets import PushTarget, find_push_target
from trainer_core.job_spec import JobSpec
from trainer_core.plugins import load_plugins
from trainer_core.step_main import guard_step
from trainer_core.watchdog import exit_when_stdin_closes, kill_descendants
from trainer_core.workspace import Workspace

_POLL_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Pushes and returns the exit status. Takes over this process's stdin and signals."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, _exit_terminated)
    secrets = read_secrets()
    exit_when_stdin_closes(kill_descendants)
    bound_waiting()
    # The bars of uploads would run through the training's own in the log; events tell of pushes.
    disable_progress_bars()
    workspace = Workspace(options.workspace)
    folder = workspace.attempt(options.attempt)
    spec = JobSpec.from_json(folder.job.read_text())
    redactor = build_redactor(spec, workspace=workspace, secrets=secrets)
    shutil.rmtree(workspace.pushing, ignore_errors=True)

    def connect() -> tuple[JobPusher, PushTarget | None]:
        load_plugins(spec.plugins)
        config = build_user_config(spec, secrets=secrets)
        target = find_push_target(config, spec.steps, options.step)
        targets = prepare_repositories([target] if target else [], token=secrets.get("huggingface_hub_token"))
        pusher = JobPusher(spec, config=config, workspace=workspace, secrets=secrets)
        return pusher, targets[0] if targets else None

    def push(events: EventSink) -> None:
        pusher, target = connect()
        if target is not None:
            pusher.push_result(options.step, target, events=events)

    if not options.follow:
        return guard_step(push, workspace=workspace, attempt=options.attempt, step=options.step, redactor=redactor)
    with EventWriter(folder.events, step=options.step, redactor=redactor) as events:
        try:
            pusher, target = connect()
        except TrainerError as error:
            _warn(events, error, "checkpoints are not pushed")
            return 0
        if target is not None:
            CheckpointFollower(pusher, target, workspace=workspace, events=events).run()
    return 0


class CheckpointFollower:
    """Pushes each checkpoint that is whole and newer than what was pushed; one that failed is not tried again."""

    def __init__(self, pusher: JobPusher, target: PushTarget, *, workspace: Workspace, events: EventSink) -> None:
        self._pusher = pusher
        self._target = target
        self._workspace = workspace
        self._events = events
        record = read_push_records(workspace).get(CHECKPOINT)
        self._seen: str | None = None if record is None else record.content

    def run(self) -> NoReturn:
        """Never returns: the process is killed when the training has ended."""
        while True:
            if not self.push_newest():
                time.sleep(_POLL_SECONDS)

    def push_newest(self) -> bool:
        """Pushes the newest whole checkpoint; returns False when it was seen before or there is none."""
        checkpoints = [each for each in list_complete(self._workspace.outputs) if each.global_step is not None]
        if not checkpoints or checkpoints[-1].folder.name == self._seen:
            return False
        newest = checkpoints[-1]
        self._seen = newest.folder.name
        try:
            self._pusher.push_checkpoint(
                newest.folder, self._target, global_step=newest.global_step or 0, events=self._events
            )
        except FileNotFoundError:
            # It has given way to a newer one, which the next look finds.
            return True
        except (TrainerError, OSError) as error:
            _warn(self._events, error, f"{newest.folder.name} is not pushed")
        return True


def _warn(events: EventSink, error: Exception, what: str) -> None:
    data = {"param": getattr(error, "param", None)}
    events.emit("warning", level="warning", message=f"{what}: {error}; the training goes on", data=data)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer_core.push_main")
    parser.add_argument("--follow", action="store_true")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--step", type=Step, required=True)
    return parser.parse_args(arguments)


def _exit_terminated(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_TERMINATED)


if __name__ == "__main__":
    sys.exit(main())
