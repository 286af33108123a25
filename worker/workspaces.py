"""The folders of jobs on this host: made at the first attempt, emptied when they are no longer needed."""

import os
import shutil
import time
from pathlib import Path

from app.settings import Settings
from trainer_core.workspace import Workspace
from worker.strays import end_strays

_FOLDER = "workspaces"
_REMOVED_PREFIX = ".removed-"


def make_workspace(settings: Settings, *, job_id: str, attempt: int) -> Workspace:
    """Returns the job's workspace with the folder of this attempt made. Raises OSError.

    What an earlier attempt still runs in it is ended; then links that it has put there are removed, for what this
    process writes and reads must not follow them.
    """
    workspace = Workspace(settings.data_dir / _FOLDER / job_id)
    end_strays(workspace.root, before_attempt=attempt)
    workspace.root.mkdir(parents=True, exist_ok=True, mode=0o700)
    remove_links(workspace.root)
    workspace.attempt_dir(attempt).mkdir(parents=True, exist_ok=True)
    return workspace


def remove_links(folder: Path) -> None:
    """Removes every symbolic link below a folder; what they lead to stays. Raises OSError."""
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink():
                path.unlink()


def set_aside(workspace: Workspace) -> Path | None:
    """Renames a workspace that is no longer needed, so that a new attempt may begin at once; None when it is gone.

    What counts of a job that is over lies in storage. Remove the returned folder afterwards: that may take a while.
    """
    target = workspace.root.with_name(f"{_REMOVED_PREFIX}{workspace.root.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        return workspace.root.rename(target)
    except OSError:
        return None


def remove_folder(folder: Path) -> None:
    """Removes a folder that was set aside; what cannot be removed stays for the next start."""
    shutil.rmtree(folder, ignore_errors=True)


def list_idle_workspaces(settings: Settings, *, idle_seconds: float) -> list[Workspace]:
    """Workspaces in which no attempt has begun for so long."""
    found = []
    for folder in (settings.data_dir / _FOLDER).glob("job-*"):
        try:
            begun_at = max(folder.stat().st_mtime, (folder / "attempts").stat().st_mtime)
        except OSError:
            continue
        if time.time() - begun_at >= idle_seconds:
            found.append(Workspace(folder))
    return found


def remove_leftovers(settings: Settings) -> None:
    """Removes what a killed worker had set aside and not removed."""
    for folder in (settings.data_dir / _FOLDER).glob(f"{_REMOVED_PREFIX}*"):
        remove_folder(folder)
