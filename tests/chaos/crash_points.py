"""The named places at which a process may die: what lies just before or behind each commit, put, rename and send."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

CRASH_SITE = Path(__file__).parent / "crash_site"
LIST = "crash-points.txt"
Scene = Literal["job", "cancel", "preview", "lost worker"]


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """One place: a function as its user sees it, and on which side of a call to it."""

    name: str
    target: str
    when: Literal["before", "after"]
    scene: Scene = "job"
    """What has to happen for a process to come by."""
    is_quick: bool = False
    """Part of the default tests."""

    @property
    def is_there(self) -> bool:
        """Whether this version has the module at all."""
        try:
            return importlib.util.find_spec(self.target.partition(":")[0]) is not None
        except ModuleNotFoundError:
            return False


_ALL = (
    # The server: a submission.
    CrashPoint("submit-stored-not-committed", "app.jobs.owner_side:OwnerSide.store", "after", is_quick=True),
    CrashPoint("submit-committed-not-woken", "app.jobs.operations:JobOperations._wake", "before"),
    CrashPoint("group-not-committed", "app.db.group_commit:_run", "after"),
    CrashPoint("group-committed-not-answered", "app.db.group_commit:_deliver", "before"),
    # The server: its reconciler.
    CrashPoint("dispatch-marked-not-committed", "app.jobs.fleet:mark_dispatched", "after", scene="lost worker"),
    CrashPoint("cancel-committed-not-answered", "app.jobs.owner_side:OwnerSide.cancel", "after", scene="cancel"),
    CrashPoint("reclaim-selected-not-updated", "app.jobs.transitions:lose_lease", "before", scene="lost worker"),
    CrashPoint(
        "reclaim-updated-not-committed",
        "app.jobs.reconciler_side:ReconcilerSide._take_back",
        "after",
        scene="lost worker",
    ),
    # The worker: taking a job.
    CrashPoint("claim-not-committed", "app.jobs.records:begin_attempt", "after"),
    CrashPoint("claim-committed-not-begun", "app.jobs.worker_side:WorkerSide.claim", "after", is_quick=True),
    CrashPoint("workspace-made", "worker.supervisor:make_workspace", "after"),
    CrashPoint("pipeline-started", "worker.pipeline_process:PipelineProcess.__init__", "after"),
    # The worker: telling and publishing.
    CrashPoint("events-not-committed", "app.jobs.step_states:StepStates.follow", "after"),
    CrashPoint("events-committed", "app.jobs.worker_side:WorkerSide.record_events", "after"),
    CrashPoint("artifacts-put-not-recorded", "app.jobs.worker_side:WorkerSide.record_artifacts", "before"),
    CrashPoint("artifacts-recorded-not-marked", "app.jobs.worker_side:WorkerSide.record_artifacts", "after"),
    CrashPoint("checkpoint-put-not-listed", "worker.publishing:dump_manifest", "before"),
    CrashPoint("checkpoint-listed", "worker.publishing:Publisher.publish_checkpoint", "after"),
    CrashPoint("log-chunk-put-not-recorded", "app.jobs.worker_side:WorkerSide.record_log_chunk", "before"),
    CrashPoint("log-chunk-recorded", "app.jobs.worker_side:WorkerSide.record_log_chunk", "after"),
    # The worker: the end.
    CrashPoint("workspace-set-aside", "worker.supervisor:set_aside", "after"),
    CrashPoint("end-not-written", "app.jobs.worker_side:WorkerSide.finish", "before", is_quick=True),
    CrashPoint("end-not-committed", "app.jobs.records:close_attempt", "after"),
    CrashPoint("end-committed", "app.jobs.worker_side:WorkerSide.finish", "after"),
    # The trainer.
    CrashPoint("checkpoint-written-not-marked", "trainer_core.checkpoints:mark_complete", "before"),
    CrashPoint("checkpoint-marked-not-told", "trainer_core.checkpoints:mark_complete", "after"),
    CrashPoint("step-done-not-marked", "trainer_core.step_main:write_marker", "before"),
    CrashPoint("marker-not-renamed", "trainer_core.attempt.markers:write_atomically", "before"),
    CrashPoint("step-marked-not-told", "trainer_core.step_main:write_marker", "after"),
    CrashPoint("result-not-written", "trainer_core.pipeline:write_result", "before"),
    CrashPoint("result-written", "trainer_core.pipeline:write_result", "after"),
    # Previews.
    CrashPoint("preview-taken", "app.previews.service:PreviewService.claim", "after", scene="preview"),
    CrashPoint("preview-not-ended", "app.previews.service:PreviewService.succeed", "before", scene="preview"),
)

CRASH_POINTS = tuple(point for point in _ALL if point.is_there)


class CrashControl:
    """The folder that tells the installation's processes of the places, and arms one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        lines = [f"{point.name} {point.target} {point.when}" for point in CRASH_POINTS]
        (folder / LIST).write_text("\n".join(lines) + "\n")

    @property
    def python_path(self) -> tuple[Path, Path]:
        """What the processes need in front of their module path."""
        return CRASH_SITE, self.folder

    def arm(self, point: CrashPoint) -> None:
        """The next process that comes by dies there."""
        (self.folder / point.name).touch()

    def is_armed(self, point: CrashPoint) -> bool:
        """False once somebody died of it."""
        return (self.folder / point.name).exists()
