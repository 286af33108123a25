"""Who may read the files that libraries write."""

import os
from pathlib import Path


def share_files(folder: Path) -> None:
    """Gives every file directly in the folder the mode that this process's umask gives to new files.

    safetensors writes with 0600, whatever the umask: a server of the model under another user could not read it.
    """
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.iterdir():
        if path.is_file() and not path.is_symlink():
            path.chmod(0o666 & ~umask)
