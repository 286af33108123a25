"""Everything that can be wrong with a request for a preview, found before it is stored: as for jobs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue
from sqlalchemy import Connection

from app.jobs.catalogue import Installation
from app.jobs.commands import JobSubmission
from app.jobs.config_checks import REGISTRY_OF_FIELD, check_config
from app.jobs.errors import Problem
from app.jobs.named_secrets import GivenSecrets, find_given_secrets
from app.jobs.references import find_references, infer_keys
from app.previews.views import PreviewRequest
from app.settings import Settings

MAX_SAMPLES = 100
_NEEDED_REGISTRIES = ("configs", "datasets", "collators")
"""Rendering trains nothing: whoever has these can do it."""


@dataclass(frozen=True, slots=True)
class CheckedPreview:
    """A request after its checks: what to store if there are no problems."""

    values: Mapping[str, JsonValue]
    secrets: GivenSecrets
    required_keys: Mapping[str, str]
    problems: tuple[Problem, ...]


def check_preview(
    connection: Connection, owner: str, request: PreviewRequest, *, installation: Installation, settings: Settings
) -> CheckedPreview:
    """Finds every problem; the config and the file are checked as those of a job that would train on it."""
    submission = JobSubmission(config=request.config, training_file=request.file_id)
    references = find_references(connection, owner, submission)
    values, inferred = infer_keys(submission, references)
    checked = check_config(values, installation=installation, settings=settings)
    secrets = find_given_secrets(connection, owner, checked.secrets)
    problems = [*checked.problems, *_name_file([*inferred, *references.problems]), *secrets.problems]
    if not 1 <= request.num_samples <= MAX_SAMPLES:
        problems.append(Problem(f"n must lie between 1 and {MAX_SAMPLES}", "n", "invalid_value"))
    required = {
        registry: str(checked.values.get(name))
        for name, registry in REGISTRY_OF_FIELD.items()
        if registry in _NEEDED_REGISTRIES
    }
    return CheckedPreview(checked.values, secrets, required, tuple(problems))


def _name_file(problems: Sequence[Problem]) -> Iterator[Problem]:
    """What a job calls `training_file` is the `file` of a preview."""
    for problem in problems:
        if problem.param == "training_file":
            message = problem.message.replace("training_file", "file", 1)
            yield replace(problem, message=message, param="file")
        else:
            yield problem
