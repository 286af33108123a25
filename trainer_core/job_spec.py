"""What the worker asks of the pipeline: one attempt at one job, as a JSON file without secrets."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Self

from trainer_core.enums import Step
from trainer_core.types import JsonValue


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What a job was given besides its Config, each as an absolute local path; None when it was not given."""

    training_file: str | None = None
    """Uploaded training rows, one JSON object a line."""
    validation_file: str | None = None
    """Uploaded evaluation rows: never trained on."""
    prepared_train: str | None = None
    """Training rows that an earlier job prepared."""
    prepared_eval: str | None = None
    """Evaluation rows that an earlier job prepared."""
    adapter: str | None = None
    """Folder of an earlier job's LoRA adapter."""
    model: str | None = None
    """Folder of an earlier job's fused or fully trained model."""
    calibration_file: str | None = None
    """Uploaded rows to calibrate a quantizer on."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One attempt at one job."""

    job_id: str
    attempt: int
    """Counts from 1; names the folder of this attempt."""
    config: Mapping[str, JsonValue]
    """The Config's fields as the user gave them, `local:` names resolved, secrets left out."""
    steps: tuple[Step, ...]
    """In the order in which they run."""
    inputs: StepInputs = field(default_factory=StepInputs)
    plugins: str | None = None
    """A comma list of `module:function` to call before a registry is read; None: entry points alone."""
    public_names: Mapping[str, str] = field(default_factory=dict)
    """What the user calls a folder of this host, such as `local:base`, by its path."""
    num_processes: int = 1
    """Ranks of the step train, one a GPU; every other step is one process."""

    def to_json(self) -> str:
        """Returns the spec as one JSON document."""
        return json.dumps(
            {
                "job_id": self.job_id,
                "attempt": self.attempt,
                "config": dict(self.config),
                "steps": [step.value for step in self.steps],
                "inputs": asdict(self.inputs),
                "plugins": self.plugins,
                "public_names": dict(self.public_names),
                "num_processes": self.num_processes,
            },
            ensure_ascii=False,
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads a spec back. Raises ValueError, KeyError or TypeError for a document that is none."""
        fields = json.loads(text)
        return cls(
            job_id=fields["job_id"],
            attempt=int(fields["attempt"]),
            config=fields["config"],
            steps=tuple(Step(name) for name in fields["steps"]),
            inputs=StepInputs(**fields["inputs"]),
            plugins=fields["plugins"],
            # A worker that was started before an upgrade writes what it knows.
            public_names=fields.get("public_names", {}),
            num_processes=int(fields.get("num_processes", 1)),
        )
