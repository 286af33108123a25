"""What a job may say outside: no secret, and no path of the host it runs on."""

from collections.abc import Mapping

from trainer_core.attempt.staged_inputs import read_staged_record
from trainer_core.job_spec import JobSpec
from trainer_core.redaction import Redactor
from trainer_core.workspace import Workspace


def build_redactor(spec: JobSpec, *, workspace: Workspace, secrets: Mapping[str, str]) -> Redactor:
    """Takes out the secrets, and names paths in the workspace from its root and other folders as the user does."""
    return Redactor(tuple(secrets.values()), public_names=list_public_names(spec, workspace=workspace))


def list_public_names(spec: JobSpec, *, workspace: Workspace) -> dict[str, str]:
    """What users call a path of this host, by the path."""
    root = str(workspace.root)
    return {f"{root}/": "", root: "workspace", **_name_staged(spec, workspace=workspace), **dict(spec.public_names)}


def _name_staged(spec: JobSpec, *, workspace: Workspace) -> dict[str, str]:
    """The Config's names of what was fetched from a hub; none before it was."""
    record = read_staged_record(workspace)
    if record is None:
        return {}
    named = (
        (record.tokenizer, "tokenizer_name_or_path"),
        (record.model, "model_name_or_path"),
        (record.adapter, "lora_hub_model_id"),
    )
    return {path: str(spec.config[key]) for path, key in named if path is not None and spec.config.get(key)}
