"""A job: what it is told to do, how far it is, and the calls that concern this one job."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

from finesmith.errors import ConfigurationError
from finesmith.models.artifact import Artifact
from finesmith.models.event import Event, LogLine
from finesmith.wire import JsonValue

if TYPE_CHECKING:
    from finesmith.resources.jobs import Jobs

JobStatus = Literal["queued", "running", "paused", "succeeded", "failed", "cancelled"]
"""The states of a job. A newer service may send others, which are passed through."""

FINISHED_STATUSES = frozenset({"succeeded", "failed", "cancelled"})
"""The states in which nothing happens any more (but by `retry`)."""

DEFAULT_WAIT_SECONDS = 24 * 3600.0
"""How long `wait` waits unless told otherwise: a wait without an end is never what a script wants."""


@dataclass(frozen=True)
class JobErrorInfo:
    """Why a job or one of its steps failed."""

    code: str = "unknown"
    """A stable word for programs, such as `invalid_data` or `cuda_out_of_memory`."""
    message: str = ""
    """For people: what happened and what to do."""
    param: str | None = None
    """The field of the config that is to blame; None when it is no single one."""
    step: str | None = None
    """The step that failed; None when it was none."""


@dataclass(frozen=True)
class JobStep:
    """One step of a job and how it went."""

    name: str
    """`prepare`, `train`, `fuse` or `quantize`."""
    status: str = "queued"
    """Where the step stands."""
    started_at: float | None = None
    """When it began, in Unix seconds; None before."""
    finished_at: float | None = None
    """When it ended, in Unix seconds; None before."""
    error: JobErrorInfo | None = None
    """Why it failed; None unless it did."""
    facts: Mapping[str, JsonValue] | None = None
    """What the step found out and made: losses, counts, sizes, revisions of repositories; None before."""


@dataclass(frozen=True)
class JobProgress:
    """How far training is. Every field is None as long as it is unknown."""

    global_step: int | None = None
    """Optimizer steps done."""
    total_steps: int | None = None
    """Optimizer steps that training will take."""
    epoch: float | None = None
    """Passes over the training data done."""
    loss: float | None = None
    """The training loss last reported, per supervised token."""
    tokens_per_second: float | None = None
    """Throughput of training."""
    eta_seconds: float | None = None
    """Seconds that are left of the present step, as estimated by the trainer."""


@dataclass(frozen=True)
class Resources:
    """What a job runs on."""

    gpus: int | None = None
    """GPUs of one host; None: 1 where the installation has a GPU, else 0."""


@dataclass(frozen=True)
class Job:
    """A job as it was when it was fetched. It does not change: `refresh` and `wait` return a newer one."""

    id: str
    """`job-…`."""
    status: JobStatus
    """Where it stands."""
    step: str | None = None
    """The step that runs, or ran last; None before the first."""
    steps: tuple[JobStep, ...] = ()
    """The steps in the order in which they run."""
    progress: JobProgress = field(default_factory=JobProgress)
    """How far training is."""
    config: Mapping[str, JsonValue] = field(default_factory=dict)
    """The whole config, defaults filled in, secrets as null; it can be posted again as it is."""
    resources: Resources = field(default_factory=Resources)
    """What it runs on."""
    priority: int = 0
    """From -100 to 100; higher goes first."""
    attempt: int = 0
    """How often a worker has taken it up; 0 before the first time."""
    failures: int = 0
    """How many attempts were lost for reasons that may go away; bounded by `max_attempts`."""
    error: JobErrorInfo | None = None
    """Why it failed; None unless it did."""
    created_at: float | None = None
    """When it was submitted, in Unix seconds."""
    started_at: float | None = None
    """When it first ran, in Unix seconds; None before."""
    finished_at: float | None = None
    """When it ended, in Unix seconds; None before."""
    stop_requested: Literal["cancel", "pause"] | None = None
    """What the running job was asked for and has not obeyed yet."""
    not_before: float | None = None
    """After a failure that may go away: when the next attempt may begin, in Unix seconds."""
    keep_days: float | None = None
    """Days from its end to its removal; None: as the service is set up."""
    name: str | None = None
    """The name given at submission."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """What was attached at submission; the service only keeps it."""
    extra: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields that this version of the SDK does not know."""
    _jobs: "Jobs | None" = field(default=None, repr=False, compare=False)

    @property
    def is_finished(self) -> bool:
        """True if the job succeeded, failed or was cancelled."""
        return self.status in FINISHED_STATUSES

    def refresh(self) -> "Job":
        """Fetches the job as it is now."""
        return self._bound.get(self.id)

    def wait(self, *, timeout: float | None = DEFAULT_WAIT_SECONDS, progress: bool = True) -> "Job":
        """Waits until the job has succeeded, and returns it as it is then.

        `timeout` is in seconds (None: without end). `progress` shows on standard error how far the job is, as a bar
        with `finesmith[cli]` on a terminal, else as lines. A service that is away for a while is waited for;
        one that hangs can make the wait longer by the client's `timeout`.
        Raises JobFailed, JobCancelled or WaitTimeout, each carrying the job. Ending the wait does not end the job.
        """
        return self._bound.wait(self, timeout=timeout, progress=progress)

    def cancel(self, *, save_checkpoint: bool = True) -> "Job":
        """Asks the service to stop the job; returns at once, `wait` raises JobCancelled once it has stopped.

        Without `save_checkpoint` a running job is killed at once, and what it has not saved yet is lost.
        """
        return self._bound.cancel(self.id, save_checkpoint=save_checkpoint)

    def pause(self) -> "Job":
        """Asks the job to save a checkpoint, free its GPUs and wait until it is resumed; returns at once."""
        return self._bound.pause(self.id)

    def resume(self) -> "Job":
        """Lets the paused job go on from its checkpoint; it keeps its place in the queue."""
        return self._bound.resume(self.id)

    def retry(self) -> "Job":
        """Queues a failed or cancelled job again; it goes on from its last complete checkpoint."""
        return self._bound.retry(self.id)

    def delete(self) -> None:
        """Deletes the finished job with all its artifacts."""
        self._bound.delete(self.id)

    @overload
    def events(self, *, after: int | None = ..., follow: Literal[False] = ...) -> list[Event]: ...
    @overload
    def events(self, *, after: int | None = ..., follow: Literal[True]) -> Iterator[Event]: ...
    def events(self, *, after: int | None = None, follow: bool = False) -> list[Event] | Iterator[Event]:
        """The job's events after the one numbered `after`.

        With `follow` an iterator that waits for more until the job has finished, goes on where it was after a dropped
        connection, and repeats and leaves out nothing.
        """
        return self._bound.follow_events(self.id, after=after) if follow else self._bound.events(self.id, after=after)

    @overload
    def logs(self, *, after: str | None = ..., follow: Literal[False] = ...) -> list[LogLine]: ...
    @overload
    def logs(self, *, after: str | None = ..., follow: Literal[True]) -> Iterator[LogLine]: ...
    def logs(self, *, after: str | None = None, follow: bool = False) -> list[LogLine] | Iterator[LogLine]:
        """What the job's steps printed, after the line with the id `after`; `follow` as in `events`."""
        return self._bound.follow_logs(self.id, after=after) if follow else self._bound.logs(self.id, after=after)

    def metrics(self, *, after: int | None = None) -> list[Event]:
        """The training log so far, one event a record: `data` holds `global_step`, `loss`, `learning_rate`, …"""
        return self._bound.metrics(self.id, after=after)

    def artifacts(self) -> list[Artifact]:
        """The files that the job has produced so far."""
        return self._bound.artifacts(self.id)

    def download(self, path: str | Path, *, prefix: str | None = None) -> list[Path]:
        """Downloads the job's artifacts into the folder `path`, and returns where they lie.

        `prefix` takes one folder (`fused`) or one file (`fused/config.json`) of them. Files that are there already are
        kept, broken ones are replaced, a download that was cut off goes on where it was. Each file appears under its
        name only when complete and its sha256 right. Raises ChecksumMismatch, UnsafePathError, and ValueError when
        nothing lies under `prefix`.
        """
        return self._bound.download(self.id, path, prefix=prefix)

    @property
    def _bound(self) -> "Jobs":
        if self._jobs is None:
            raise ConfigurationError(f"{self.id} has no client: fetch it with client.jobs.get({self.id!r}).")
        return self._jobs

    def __getstate__(self) -> dict[str, object]:
        # Connections cannot be pickled; errors that carry a job must be, to pass between processes.
        return {**self.__dict__, "_jobs": None}
