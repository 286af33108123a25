"""Decides where an artifact may be written."""

from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from finesmith.errors import UnsafePathError
from finesmith.models.artifact import Artifact


def select_artifacts(artifacts: Sequence[Artifact], *, prefix: str | None) -> list[Artifact]:
    """Those below the folder `prefix`, or the one that it names; None: all. Raises ValueError if there is none."""
    if prefix is None:
        return list(artifacts)
    wanted = prefix.strip("/")
    chosen = [item for item in artifacts if item.path == wanted or item.path.startswith(f"{wanted}/")]
    if not chosen:
        folders = ", ".join(sorted({item.path.split("/")[0] for item in artifacts})) or "nothing yet"
        raise ValueError(f"No artifact lies under {prefix!r}; there is: {folders}.")
    return chosen


def safe_target(folder: Path, path: str) -> Path:
    """Where the artifact `path` goes below `folder`.

    Raises UnsafePathError for a path that is absolute, holds `..`, backslashes or control characters, or leads out of
    the folder through a link that lies in it.
    """
    parts = path.split("/")
    is_odd = any(part in ("", ".", "..") for part in parts) or "\\" in path or not path.isprintable()
    if is_odd or PureWindowsPath(path).drive:
        raise UnsafePathError(f"The service named an artifact {path!r}: that path is not below the chosen folder.")
    target = folder.joinpath(*parts)
    if not target.resolve().is_relative_to(folder.resolve()):
        raise UnsafePathError(f"{target} leads out of {folder} through a link.")
    return target
