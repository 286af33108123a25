"""The folders of jobs on this host: made at the first attempt, emptied when they are no longer needed."""

import shutil

from app.settings import Settings
from trainer_core.checkpoints import list_checkpoints, read_completion
from trainer_core.enums import STEP_ORDER
from trainer_core.markers import read_marker
from trainer_core.workspace import Workspace


def make_workspace(settings: Settings, *, job_id: str, attempt: int) -> Workspace:
    """Returns the job's workspace with the folder of this attempt made. Raises OSError."""
    workspace = Workspace(settings.data_dir / "workspaces" / job_id)
    workspace.attempt_dir(attempt).mkdir(parents=True, exist_ok=True)
    return workspace


def remove_workspace(workspace: Workspace) -> None:
    """Removes all of it: what counts of a job that is over lies in storage. What cannot be removed stays."""
    shutil.rmtree(workspace.root, ignore_errors=True)


def remove_partial_outputs(workspace: Workspace) -> None:
    """Removes what unfinished steps left behind, to make room on a full disk: their next run starts anew."""
    finished = {
        folder.root
        for step in STEP_ORDER
        if (marker := read_marker(workspace, step)) is not None
        for folder in marker.folders
    }
    for checkpoint in list_checkpoints(workspace.outputs):
        if read_completion(checkpoint) is None:
            shutil.rmtree(checkpoint, ignore_errors=True)
    for folder in (workspace.train_data.parent, workspace.fused, workspace.quantized):
        if folder.name not in finished:
            shutil.rmtree(folder, ignore_errors=True)
