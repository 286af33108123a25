"""Everything that can be wrong with a submission, found at once and before anything is stored."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue
from sqlalchemy import Connection

from app.jobs.catalogue import Installation
from app.jobs.commands import JobSubmission
from app.jobs.config_checks import CONFIG_FIELDS, REGISTRY_OF_FIELD, CheckedConfig, check_config
from app.jobs.errors import Problem
from app.jobs.named_secrets import GivenSecrets, find_given_secrets
from app.jobs.references import References, find_references, infer_keys
from app.jobs.storable import is_storable_text
from app.settings import Settings
from trainer_core.config import (
    STEP_ORDER,
    AvailableInputs,
    Config,
    Step,
    check_steps,
    default_steps,
    describe_unknown_key,
    find_warnings,
)

PRIORITY_RANGE = (-100, 100)
MAX_ATTEMPTS_RANGE = (1, 100)
MAX_NAME_CHARS = 256
MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512
_STEP_OF_KEY = {
    "fuse_after_training": Step.FUSE,
    "lora_hub_model_id": Step.FUSE,
    "fused_hub_model_id": Step.FUSE,
    "quantization_dataset_id": Step.QUANTIZE,
    "quantized_hub_model_id": Step.QUANTIZE,
}
"""Keys that ask for something which one step alone does."""


@dataclass(frozen=True, slots=True)
class Validation:
    """What `POST /v1/jobs/validate` answers; `config` is empty and `steps` too when the config cannot be built."""

    config: Mapping[str, JsonValue]
    steps: tuple[str, ...]
    warnings: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """A submission after its checks: what to store if `validation.problems` is empty."""

    validation: Validation
    secrets: GivenSecrets
    required_keys: Mapping[str, str]
    calibration_file: str | None
    num_gpus: int | None


def check_submission(
    connection: Connection, owner: str, submission: JobSubmission, *, installation: Installation, settings: Settings
) -> Checked:
    """Finds every problem; on PostgreSQL also keeps the named files from being deleted until the transaction ends."""
    references = find_references(connection, owner, submission)
    values, inferred_problems = infer_keys(submission, references)
    checked = check_config(values, installation=installation, settings=settings)
    secrets = find_given_secrets(connection, owner, checked.secrets)
    steps, step_problems = _check_steps(submission, checked, references)
    problems = (
        *checked.problems,
        *inferred_problems,
        *step_problems,
        *references.problems,
        *secrets.problems,
        *_check_numbers(submission, installation),
        *_check_labels(submission),
    )
    required = {registry: str(checked.values.get(name)) for name, registry in REGISTRY_OF_FIELD.items()}
    if Step.QUANTIZE not in steps:
        del required["quantizers"]
    warnings = tuple(_find_warnings(submission, checked, steps, installation))
    return Checked(
        validation=Validation(checked.values, tuple(step.value for step in steps), warnings, problems),
        secrets=secrets,
        required_keys=required,
        calibration_file=references.calibration_file,
        num_gpus=_resolve_gpus(submission.resources.gpus, installation),
    )


def _check_steps(
    submission: JobSubmission, checked: CheckedConfig, references: References
) -> tuple[tuple[Step, ...], list[Problem]]:
    """The steps to run and what is wrong with them; sources can be checked only with a whole config."""
    names = submission.steps
    if names is not None:
        unknown = [name for name in names if name not in set(STEP_ORDER)]
        if unknown:
            known = [step.value for step in STEP_ORDER]
            messages = [describe_unknown_key(str(name), known=known, where="steps") for name in unknown]
            return (), [Problem(message, "steps", "invalid_steps") for message in messages]
    if checked.config is None:
        if names is None:
            return (), []
        only_order = AvailableInputs(in_script=True)
        found = check_steps(Config(), [Step(name) for name in names], only_order)
        return (), [_over_http(problem.message, problem.param, problem.code) for problem in found]
    steps = default_steps(checked.config) if names is None else tuple(Step(name) for name in names)
    artifacts = references.input_artifacts
    inputs = AvailableInputs(
        training_file=submission.training_file is not None,
        prepared_data="data" in artifacts,
        adapter="adapter" in artifacts,
        model=not artifacts.isdisjoint({"fused", "model"}),
    )
    found = check_steps(checked.config, steps, inputs)
    if any(problem.param == "input_job" for problem in references.problems):
        # What the steps lack then is only what that job would have given.
        found = [problem for problem in found if problem.code != "missing_input"]
    return steps, [_over_http(problem.message, problem.param, problem.code) for problem in found]


def _over_http(message: str, param: str | None, code: str) -> Problem:
    """The trainer names keys of its Config; over HTTP these lie below `config`."""
    return Problem(message, f"config.{param}" if param in CONFIG_FIELDS else param, code)


def _check_numbers(submission: JobSubmission, installation: Installation) -> Iterator[Problem]:
    for name, (lowest, highest) in (("priority", PRIORITY_RANGE), ("max_attempts", MAX_ATTEMPTS_RANGE)):
        if not lowest <= getattr(submission, name) <= highest:
            yield Problem(f"{name} must lie between {lowest} and {highest}", name, "invalid_value")
    seconds = submission.max_runtime_seconds
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        yield Problem("max_runtime_seconds must be above 0", "max_runtime_seconds", "invalid_value")
    days = submission.keep_days
    if days is not None and not (math.isfinite(days) and days >= 0):
        yield Problem("keep_days must be 0 or more", "keep_days", "invalid_value")
    gpus, most = submission.resources.gpus, installation.most_gpus
    if gpus is not None and gpus < 0:
        yield Problem("resources.gpus must be 0 or more", "resources.gpus", "invalid_value")
    elif gpus is not None and most is not None and gpus > most:
        message = f"resources.gpus: {gpus} is more than any host has; the largest has {most}"
        yield Problem(message, "resources.gpus", "no_such_host")


def _check_labels(submission: JobSubmission) -> Iterator[Problem]:
    name, metadata = submission.name, submission.metadata
    if name is not None and not (0 < len(name) <= MAX_NAME_CHARS and is_storable_text(name)):
        yield Problem(f"name must have 1 to {MAX_NAME_CHARS} characters", "name", "invalid_value")
    if len(metadata) > MAX_METADATA_PAIRS:
        yield Problem(f"metadata may have at most {MAX_METADATA_PAIRS} pairs", "metadata", "invalid_value")
    for key, value in metadata.items():
        texts: Sequence[object] = (key, value)
        fits = 0 < len(key) <= MAX_METADATA_KEY_CHARS and isinstance(value, str)
        if not (fits and len(value) <= MAX_METADATA_VALUE_CHARS and all(is_storable_text(str(t)) for t in texts)):
            message = (
                f"metadata: {key[:MAX_METADATA_KEY_CHARS]!a}: a key has 1 to {MAX_METADATA_KEY_CHARS} characters,"
                f" a value is text of at most {MAX_METADATA_VALUE_CHARS}"
            )
            yield Problem(message, "metadata", "invalid_value")


def _resolve_gpus(requested: int | None, installation: Installation) -> int | None:
    """One GPU where the installation has any; left open while no worker has ever announced itself."""
    if requested is None and installation.most_gpus is not None:
        return min(1, installation.most_gpus)
    return requested


def _find_warnings(
    submission: JobSubmission, checked: CheckedConfig, steps: Sequence[Step], installation: Installation
) -> Iterator[str]:
    if checked.config is None:
        return
    yield from (warning.message for warning in find_warnings(checked.config, steps=steps))
    for name, step in _STEP_OF_KEY.items():
        if getattr(checked.config, name) and step not in steps:
            yield f"{name} is not used: {step} is not among the steps"
    if submission.validation_file is not None and Step.PREPARE not in steps:
        yield "validation_file is not used: prepare is not among the steps"
    brings_own_rows = Step.PREPARE in steps and submission.training_file is None
    if brings_own_rows and "dataset_key" not in submission.config:
        yield f"training_file is not given: the data set {checked.config.dataset_key!r} brings its own rows"
    if installation.most_gpus is None:
        yield "no worker has announced itself yet: the job will wait for one"
