"""Sends a training's metrics to its trackers, in a process of its own: the training has no network and no key.

`python -m trainer_core.track_main --workspace ROOT --attempt N --step train`. It reads what the training appends to
the attempt's `tracking.jsonl` until the record `end`. What fails is a warning: exit status 0 whatever a tracker does.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trainer_core.attempt.public_names import build_redactor
from trainer_core.attempt.secrets_line import read_secrets
from trainer_core.attempt.tracking_relay import TrackingReader, TrackingRecord
from trainer_core.enums import Step
from trainer_core.events import EventWriter
from trainer_core.job_spec import JobSpec
from trainer_core.trainers.tracking.base import TrackedRun, Tracker
from trainer_core.trainers.tracking.feed import TrackerFeed
from trainer_core.trainers.tracking.mlflow import MlflowTracker
from trainer_core.trainers.tracking.wandb import WandbTracker
from trainer_core.watchdog import exit_when_stdin_closes, kill_descendants
from trainer_core.workspace import Workspace

_POLL_SECONDS = 0.2
_SYNC_SECONDS = 60.0
_TRACKERS: Mapping[str, Callable[[TrackedRun], Tracker]] = {"mlflow": MlflowTracker, "wandb": WandbTracker}


class TrackingSender:
    """Tells each tracker what the training has written down for it."""

    def __init__(self, workspace: Workspace, *, key: str | None, events: EventWriter, clean: Callable[[str], str]):
        """`key`: of W&B. `clean` removes secrets from what libraries say."""
        self._folder = workspace.trackers
        self._key = key
        self._events = events
        self._clean = clean
        self._feeds: dict[str, TrackerFeed] = {}
        self._trackers: dict[str, Tracker] = {}

    def take(self, record: TrackingRecord) -> None:
        """Passes one record on; a tracker works in a thread of its own."""
        if record.kind == "start" and record.tracker in _TRACKERS and record.tracker not in self._feeds:
            tracker = _TRACKERS[record.tracker](self._describe(record))
            self._trackers[record.tracker] = tracker
            self._feeds[record.tracker] = feed = TrackerFeed(tracker, events=self._events, clean=self._clean)
            feed.start()
        elif record.kind == "log" and record.tracker in self._feeds:
            self._feeds[record.tracker].log(record.metrics, step=record.step)
        elif record.kind == "finish" and record.tracker in self._feeds:
            self._close(record.tracker, has_succeeded=record.has_succeeded)

    def close(self) -> None:
        """Ends the runs of a training that did not."""
        for name in list(self._feeds):
            self._close(name, has_succeeded=False)

    def _describe(self, record: TrackingRecord) -> TrackedRun:
        run = record.run
        key = self._key if record.tracker == "wandb" else None
        return TrackedRun(
            folder=self._folder,
            config=dict(run.get("config") or {}),
            project=run.get("project"),
            run_name=run.get("run_name"),
            entity=run.get("entity"),
            api_key=key,
        )

    def _close(self, name: str, *, has_succeeded: bool) -> None:
        self._feeds.pop(name).close(has_succeeded=has_succeeded)
        tracker = self._trackers.pop(name)
        if isinstance(tracker, WandbTracker) and tracker.problem is not None and self._key is not None:
            self._sync_later(self._key)

    def _sync_later(self, key: str) -> None:
        """W&B could not be reached when the run began: tries once more now that all is written."""
        status = sync_offline_runs(self._folder, key=key)
        if status == 0:
            self._events.emit("decision", message="the W&B run that was kept offline has been sent")
            return
        message = (
            "the W&B run could not be sent; its metrics are in the job's own, at /v1/jobs/{id}/metrics. Check "
            "wandb_api_key and whether the worker's host reaches W&B"
        )
        self._events.emit("warning", level="warning", message=message, data={"param": "report_to", "tracker": "wandb"})


def build_sync_command(folder: Path) -> tuple[str, ...]:
    """W&B's own program that sends the offline runs below a folder."""
    runs = sorted(str(path) for path in (folder / "wandb").glob("offline-run-*"))
    return (sys.executable, "-P", "-m", "wandb", "sync", "--no-include-synced", *runs)


def sync_offline_runs(folder: Path, *, key: str) -> int:
    """Sends them and returns the exit status, 124 when the time was over. The key is in its environment alone."""
    env = {**os.environ, "WANDB_API_KEY": key, "WANDB_MODE": "online", "WANDB_ERROR_REPORTING": "false"}
    try:
        command = build_sync_command(folder)
        return subprocess.run(command, env=env, cwd=folder, timeout=_SYNC_SECONDS, check=False).returncode
    except subprocess.TimeoutExpired:
        return 124


def main(arguments: Sequence[str] | None = None) -> int:
    """Sends until the training has ended and returns the exit status. Takes over this process's stdin and signals."""
    parser = argparse.ArgumentParser(prog="python -m trainer_core.track_main")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--step", type=Step, required=True)
    options = parser.parse_args(arguments)
    # The pipeline says when to end: what the training still writes at a stop is to be sent.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    secrets = read_secrets()
    exit_when_stdin_closes(kill_descendants)
    workspace = Workspace(options.workspace)
    folder = workspace.attempt(options.attempt)
    spec = JobSpec.from_json(folder.job.read_text())
    redactor = build_redactor(spec, workspace=workspace, secrets=secrets)
    reader = TrackingReader(folder.tracking)
    with EventWriter(folder.events, step=options.step, redactor=redactor) as events:
        sender = TrackingSender(workspace, key=secrets.get("wandb_api_key"), events=events, clean=redactor.redact_text)
        while True:
            for record in reader.read():
                if record.kind == "end":
                    sender.close()
                    return 0
                sender.take(record)
            time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
