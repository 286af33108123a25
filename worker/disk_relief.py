"""Room on a full disk, so that what became of the job that filled it can be written down.

In an embedded installation database, storage and workspaces share one disk: without this a job that fills it could
not even fail.
"""

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from trainer_core.attempt.markers import read_marker
from trainer_core.checkpoints import list_complete
from trainer_core.enums import Step
from trainer_core.workspace import Workspace

logger = logging.getLogger(__name__)

_RESERVE_BYTES = 8 << 20
_LITTLE_ROOM_BYTES = 4 << 20
_KEPT_ENTRIES = frozenset({"attempts", "data", "fused", "inputs", "outputs", "quantized", "staged.json", "steps"})


class DiskReserve:
    """A file that takes room while all is well, to be given up when there is none left."""

    def __init__(self, folder: Path, *, num_bytes: int = _RESERVE_BYTES) -> None:
        self._path = folder / ".disk-reserve"
        self._num_bytes = num_bytes

    def fill(self) -> None:
        """Takes the room, unless it is taken or the disk has little left."""
        folder = self._path.parent
        if self._path.exists() or shutil.disk_usage(folder).free < 4 * self._num_bytes:
            return
        try:
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._num_bytes)
        except OSError as error:
            logger.info("no room is kept for a full disk: %s", error)
            self.release()

    def release(self) -> None:
        """Gives the room up."""
        with suppress(OSError):
            self._path.unlink()


def make_room(workspace: Workspace, *, reserve: DiskReserve) -> None:
    """Removes what unfinished steps left behind, which their next run makes anew; if that is little, the reserve too.

    Call it when no process of the job is left. Events, output, inputs and whole checkpoints stay.
    """
    outputs = {
        Step.PREPARE: workspace.train_data.parent,
        Step.FUSE: workspace.fused,
        Step.QUANTIZE: workspace.quantized,
    }
    for step, folder in outputs.items():
        if read_marker(workspace, step) is None:
            _remove(folder)
    if read_marker(workspace, Step.TRAIN) is None:
        whole = {each.folder for each in list_complete(workspace.outputs)} - {workspace.outputs}
        _remove_entries(workspace.outputs, kept={folder.name for folder in whole})
    _remove_entries(workspace.root, kept=_KEPT_ENTRIES)
    if shutil.disk_usage(workspace.root).free < _LITTLE_ROOM_BYTES:
        reserve.release()


def _remove_entries(folder: Path, *, kept: "set[str] | frozenset[str]") -> None:
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name not in kept:
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()
