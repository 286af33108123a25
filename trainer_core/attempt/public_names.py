"""What a job may say outside: no secret, and no path of the host it runs on."""

from collections.abc import Mapping

from trainer_core.job_spec import JobSpec
from trainer_core.redaction import Redactor
from trainer_core.workspace import Workspace


def build_redactor(spec: JobSpec, *, workspace: Workspace, secrets: Mapping[str, str]) -> Redactor:
    """Takes out the secrets, and names paths in the workspace from its root and other folders as the user does."""
    root = str(workspace.root)
    return Redactor(
        tuple(secrets.values()), public_names={f"{root}/": "", root: "workspace", **dict(spec.public_names)}
    )
