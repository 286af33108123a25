"""Where everything of one job lies on a host's disk."""

from dataclasses import dataclass
from pathlib import Path

from trainer_core.enums import Step


@dataclass(frozen=True, slots=True)
class Workspace:
    """The folder of one job; the paths are fixed, nothing is created by asking for one."""

    root: Path
    """Absolute path; the steps run with it as their current folder."""

    @property
    def train_data(self) -> Path:
        """Prepared training rows, one JSON object a line."""
        return self.root / "data" / "train.jsonl"

    @property
    def eval_data(self) -> Path:
        """Prepared evaluation rows; missing when the job has none."""
        return self.root / "data" / "eval.jsonl"

    @property
    def outputs(self) -> Path:
        """`Config.output_dir`: the final adapter or full model in its root, checkpoints in `checkpoint-<n>`."""
        return self.root / "outputs"

    @property
    def fused(self) -> Path:
        """The fused model."""
        return self.root / "fused"

    @property
    def quantized(self) -> Path:
        """The quantized model."""
        return self.root / "quantized"

    @property
    def inputs(self) -> Path:
        """What the job was given: uploaded files, an earlier job's artifacts."""
        return self.root / "inputs"

    @property
    def staged(self) -> Path:
        """The record of what was downloaded from a hub: local folders and the revisions they are of."""
        return self.root / "staged.json"

    @property
    def pushes(self) -> Path:
        """The record of what was pushed to a hub."""
        return self.root / "pushes.json"

    @property
    def pushing(self) -> Path:
        """What is being pushed, as hard links: the training may delete its checkpoint meanwhile."""
        return self.root / ".pushing"

    @property
    def trackers(self) -> Path:
        """Where trackers keep their files."""
        return self.root / ".trackers"

    def marker(self, step: Step) -> Path:
        """The done marker of a step: exists only when all that the step made is whole."""
        return self.root / "steps" / f"{step}.json"

    def attempt(self, number: int) -> "AttemptFolder":
        """The folder of one attempt at the job; `number` counts from 1."""
        return AttemptFolder(self.attempt_dir(number))

    def attempt_dir(self, number: int) -> Path:
        """Path of the folder of one attempt; `number` counts from 1."""
        return self.root / "attempts" / str(number)


@dataclass(frozen=True, slots=True)
class AttemptFolder:
    """What is exchanged between the worker and the pipeline of one attempt."""

    root: Path

    @property
    def job(self) -> Path:
        """The JobSpec, written by the worker before the pipeline starts."""
        return self.root / "job.json"

    @property
    def events(self) -> Path:
        """The event lines of pipeline and steps."""
        return self.root / "events.jsonl"

    @property
    def output(self) -> Path:
        """What the steps printed, without secrets."""
        return self.root / "output.log"

    @property
    def result(self) -> Path:
        """How the attempt ended, written last by the pipeline."""
        return self.root / "result.json"

    @property
    def tracking(self) -> Path:
        """Metrics for trackers, one record a line, written by the training for the process that sends them."""
        return self.root / "tracking.jsonl"

    def step_error(self, step: Step) -> Path:
        """Why a step failed, written by the step for the pipeline."""
        return self.root / f"error-{step}.json"

    def step_stop(self, step: Step) -> Path:
        """An empty file that asks a step of several processes to stop."""
        return self.root / f"stop-{step}"
