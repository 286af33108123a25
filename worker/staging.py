"""Brings into a workspace what a job was given and what earlier attempts at it finished, perhaps on another host."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from app.jobs.views import ArtifactView, Claim, FileRef
from app.settings import Settings
from app.storage import DamagedContent, Storage, Written
from trainer_core.config import SECRET_FIELDS
from trainer_core.enums import Step
from trainer_core.errors import StepInputError
from trainer_core.job_spec import JobSpec, StepInputs
from trainer_core.types import JsonValue
from trainer_core.workspace import Workspace
from worker.tracing import traced

logger = logging.getLogger(__name__)

_LOCAL_PREFIX = "local:"
_NUM_TRIES = 2
"""A copy that is damaged is fetched once more: it may have been the way, not the file."""


class InputDamagedError(StepInputError):
    """An input is not what was uploaded or published; repeating the attempt would find the same."""

    code = "artifact_damaged"


class InputStager:
    """Makes the JobSpec of one claim. `check` is called between files and raises to give up."""

    def __init__(
        self, claim: Claim, *, workspace: Workspace, storage: Storage, settings: Settings, check: Callable[[], None]
    ) -> None:
        self._claim = claim
        self._workspace = workspace
        self._storage = storage
        self._settings = settings
        self._check = check
        self._steps = tuple(Step(name) for name in claim.steps)

    @traced("job.stage")
    def stage(self) -> JobSpec:
        """Fetches the inputs and returns the spec that names them.

        Raises StepInputError for an input that is gone or damaged, OSError, and whatever `check` raises.
        """
        config = resolve_local_names(self._claim.config, self._settings)
        return JobSpec(
            job_id=self._claim.job_id,
            attempt=self._claim.attempt,
            config=config,
            steps=self._steps,
            inputs=self._stage_job_artifacts(self._stage_files()),
            plugins=self._settings.plugins,
            num_processes=max(1, len(self._claim.gpus)),
            public_names=find_public_names(config, given=self._claim.config),
        )

    def _stage_files(self) -> StepInputs:
        inputs = self._claim.inputs
        return StepInputs(
            training_file=self._fetch_upload(inputs.training_file),
            validation_file=self._fetch_upload(inputs.validation_file),
            calibration_file=self._fetch_upload(inputs.calibration_file),
        )

    def _stage_job_artifacts(self, inputs: StepInputs) -> StepInputs:
        """Adds of the earlier job what these steps take, and no more: a model may be hundreds of GiB."""
        job = self._claim.inputs.input_job
        if job is None:
            return inputs
        if self._needs_data(inputs) and "data" in job.artifacts:
            folder = self._fetch_artifacts(job.artifacts["data"], name="data")
            eval_path = folder / self._workspace.eval_data.name
            inputs = replace(
                inputs,
                prepared_train=str(folder / self._workspace.train_data.name),
                prepared_eval=str(eval_path) if eval_path.exists() else None,
            )
        if Step.FUSE in self._steps and Step.TRAIN not in self._steps and "adapter" in job.artifacts:
            inputs = replace(inputs, adapter=str(self._fetch_artifacts(job.artifacts["adapter"], name="adapter")))
        model = job.artifacts.get("fused") or job.artifacts.get("model")
        if self._steps == (Step.QUANTIZE,) and model:
            inputs = replace(inputs, model=str(self._fetch_artifacts(model, name="model")))
        return inputs

    def _needs_data(self, inputs: StepInputs) -> bool:
        if Step.PREPARE in self._steps:
            return False
        calibrates = Step.QUANTIZE in self._steps and inputs.calibration_file is None
        return Step.TRAIN in self._steps or calibrates

    def _fetch_upload(self, file: FileRef | None) -> str | None:
        if file is None:
            return None
        path = self._workspace.inputs / f"{file.id}.jsonl"
        self._fetch(file.storage_key, path, num_bytes=file.num_bytes, sha256=file.sha256)
        return str(path)

    def _fetch_artifacts(self, artifacts: Sequence[ArtifactView], *, name: str) -> Path:
        folder = self._workspace.inputs / name
        for artifact in artifacts:
            path = folder / artifact.path.removeprefix(f"{artifact.name}/")
            self._fetch(artifact.storage_key, path, num_bytes=artifact.num_bytes, sha256=artifact.sha256)
        return folder

    def _fetch(self, key: str, path: Path, *, num_bytes: int, sha256: str) -> None:
        """Fetches one file unless it is there: one that is was verified when it was fetched."""
        self._check()
        if path.is_file() and path.stat().st_size == num_bytes:
            return
        fetch_verified(self._storage, key, path, expected=Written(num_bytes, sha256))


def fetch_verified(storage: Storage, key: str, path: Path, *, expected: Written) -> None:
    """Fetches an input. Raises StepInputError when it is gone, InputDamagedError, OSError."""
    for tried in range(1, _NUM_TRIES + 1):
        try:
            storage.fetch_file(key, path, expected=expected)
            return
        except FileNotFoundError as error:
            raise StepInputError(f"the input {path.name} is no longer in storage") from error
        except DamagedContent as error:
            logger.warning("fetched %d times: %s", tried, error)
            if tried == _NUM_TRIES:
                message = f"the input {path.name} is damaged in storage ({error}); upload or make it again"
                raise InputDamagedError(message) from error


def resolve_local_names(config: Mapping[str, JsonValue], settings: Settings) -> dict[str, JsonValue]:
    """Returns the config without secrets, and with the paths of what it names as `local:<name>`."""
    roots = {
        "model_name_or_path": settings.model_root,
        "tokenizer_name_or_path": settings.model_root,
        "lora_hub_model_id": settings.model_root,
        "deepspeed_config_path": settings.config_root,
    }
    resolved = {name: value for name, value in config.items() if name not in SECRET_FIELDS}
    for field, root in roots.items():
        value = resolved.get(field)
        if isinstance(value, str) and value.startswith(_LOCAL_PREFIX):
            resolved[field] = str(_resolve_local_name(value, root=root, field=field))
    return resolved


def find_public_names(config: Mapping[str, JsonValue], *, given: Mapping[str, JsonValue]) -> dict[str, str]:
    """What the user calls a path in the resolved config, by the path."""
    return {
        str(config[field]): value
        for field, value in given.items()
        if field in config and isinstance(value, str) and value.startswith(_LOCAL_PREFIX)
    }


def _resolve_local_name(value: str, *, root: Path | None, field: str) -> Path:
    name = value.removeprefix(_LOCAL_PREFIX)
    if root is None:
        raise StepInputError(f"{field}: this worker has no folder for {value!r}", param=field)
    path = root.expanduser().absolute() / name
    if name in ("", ".", "..") or Path(name).name != name or not path.exists():
        raise StepInputError(f"{field}: this worker has no {value!r}", param=field)
    # An administrator may keep a model elsewhere behind a link.
    return path.resolve()
