"""What a job may say outside: no secret, and no path of the host it runs on."""

from collections.abc import Mapping

from trainer_core.job_spec import JobSpec
from trainer_core.redaction import Redactor
from trainer_core.workspace import Workspace


def build_redactor(spec: JobSpec, *, workspace: Workspace, secrets: Mapping[str, str]) -> Redactor:
    """Takes out the secrets, and names paths in the workspace from its root and other folders as the user does."""
    return Redactor(tuple(secrets.values()), public_names=list_public_names(spec, workspace=workspace))


def list_public_names(spec: JobSpec, *, workspace: Workspace) -> dict[str, str]:
    """What users call a path of this host, by the path."""
    root = str(workspace.root)
    return {f"{root}/": "", root: "workspace", **dict(spec.public_names)}
