"""The cage of this worker's jobs: what the settings ask for, and whether this host can give it."""

import logging
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from app.settings import Settings
from trainer_core.launch.cage_command import Cage

logger = logging.getLogger(__name__)

_TRAINER_OOM_SCORE = 500
_PREVIEW_OOM_SCORE = 1000
_PREVIEW_NICENESS = 10
_PREVIEW_FILE_BYTES = 1 << 30
"""Of each file that a preview writes: what it prints must not fill the disk."""
_PROBE_SECONDS = 60.0
SHARED_FOLDERS = ("workspaces", "owners", "previews")
"""Folders of the data folder below which jobs have their own."""


class CageImpossible(Exception):
    """This host cannot hold jobs to what the settings ask for; the worker does not start."""


def build_job_cage(settings: Settings) -> Cage:
    """The cage of a pipeline and all below it, but for the network, which its steps leave one by one.

    Raises CageImpossible for a user that is not there.
    """
    user = find_trainer_user(settings)
    return Cage(
        user=user,
        niceness=settings.trainer_nice,
        # A job goes before the worker that would tell of it.
        oom_score_adj=_TRAINER_OOM_SCORE,
        max_open_files=settings.trainer_max_open_files,
        max_processes=None if user is None else settings.trainer_max_processes,
        max_file_bytes=settings.trainer_max_file_bytes,
        max_memory_bytes=settings.trainer_max_memory_bytes,
    )


def build_preview_cage(settings: Settings) -> Cage:
    """The cage of a preview: training on the same host goes first, and is killed for memory last."""
    user = find_trainer_user(settings)
    return Cage(
        user=user,
        niceness=_PREVIEW_NICENESS,
        oom_score_adj=_PREVIEW_OOM_SCORE,
        max_open_files=settings.trainer_max_open_files,
        max_processes=None if user is None else settings.trainer_max_processes,
        max_file_bytes=_PREVIEW_FILE_BYTES,
        max_memory_bytes=settings.trainer_max_memory_bytes,
    )


def find_trainer_user(settings: Settings) -> tuple[int, int] | None:
    """uid and gid of `trainer_user`; None when jobs run as the worker. Raises CageImpossible."""
    given = settings.trainer_user
    if not given:
        return None
    uid, _, gid = given.partition(":")
    if uid.isdecimal():
        found = (int(uid), int(gid) if gid.isdecimal() else int(uid))
    else:
        try:
            entry = pwd.getpwnam(given)
        except KeyError as error:
            message = f"FINESMITH_TRAINER_USER: this host has no user {given!r}; make it, or give uid or uid:gid"
            raise CageImpossible(message) from error
        found = (entry.pw_uid, entry.pw_gid)
    if 0 in found:
        raise CageImpossible("FINESMITH_TRAINER_USER: root is no user for jobs; give an unprivileged one")
    return found


def protect_data_folder(settings: Settings) -> None:
    """With a user of their own, jobs reach their folders in the data folder and nothing else there."""
    if find_trainer_user(settings) is None:
        return
    for name in SHARED_FOLDERS:
        folder = settings.data_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
    for path in settings.data_dir.iterdir():
        if path.name not in SHARED_FOLDERS and not path.is_symlink():
            with suppress(FileNotFoundError):
                path.chmod(path.stat().st_mode & 0o700)
    settings.data_dir.chmod(0o711)


def check_cage(settings: Settings, *, env: Mapping[str, str]) -> None:
    """Tries the cage on this host. `env`: a pipeline's environment. Raises CageImpossible saying what to do."""
    if settings.trainer_network != "host":
        _check_network(settings)
    cage = build_job_cage(settings)
    if cage.user is None:
        return
    try:
        protect_data_folder(settings)
    except PermissionError as error:
        message = f"FINESMITH_TRAINER_USER: the worker may not change the modes of its data folder ({error.strerror})"
        raise CageImpossible(message) from error
    look = f"import os, trainer_core.pipeline; os.stat({str(settings.data_dir / SHARED_FOLDERS[0] / '.')!r})"
    reason = _try([*cage.build_prefix(), sys.executable, "-P", "-c", look], env=env)
    if reason is not None:
        message = (
            f"FINESMITH_TRAINER_USER={settings.trainer_user}: that user must be able to run {sys.executable}, to read "
            f"the installed packages and to pass through {settings.data_dir}, and cannot: {reason}"
        )
        raise CageImpossible(message)


def _check_network(settings: Settings) -> None:
    user = find_trainer_user(settings)
    # As a step does it: by then the pipeline has become the user, who has to make the namespace.
    becoming = () if user is None else Cage(user=user).build_prefix()
    argv = [*becoming, *Cage(network="isolated").build_prefix(), "/bin/true"]
    reason = _try(argv, env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")})
    if reason is None:
        return
    if settings.trainer_network == "isolated":
        raise CageImpossible(reason)
    logger.warning("jobs keep the host's network: %s", reason)


def _try(argv: list[str], *, env: Mapping[str, str]) -> str | None:
    """None when the program ends well, else the last line that it printed."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_SECONDS, check=False, env=dict(env)
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def give_folder(folder: Path, user: tuple[int, int] | None) -> None:
    """Makes a folder with all in it the user's alone; links in it are not followed. Nothing without a user."""
    if user is None:
        return
    folder.chmod(0o700)
    os.chown(folder, *user)
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in (*folders, *files):
            os.chown(Path(parent, name), *user, follow_symlinks=False)
