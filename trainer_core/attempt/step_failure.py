"""Turns whatever a step raised into the error that its job shows."""

import errno
import shutil
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from trainer_core.attempt.outcome import Failure
from trainer_core.enums import Step
from trainer_core.errors import DeviceMemoryError, DiskFullError, HostMemoryError, NetworkError, TrainerError

_NO_ROOM_BYTES = 1 << 20
_DISK_FULL_TEXTS = ("no space left on device", "os error 28", "disk quota exceeded")
_DEVICE_MEMORY_TEXTS = ("cuda out of memory", "cuda error: out of memory", "cublas_status_alloc_failed")
_HOST_MEMORY_TEXTS = ("can't allocate memory", "cannot allocate memory")
_DEVICE_TEXTS = ("cuda error", "nccl error", "cudnn error", "uncorrectable ecc")
_NETWORK_MODULES = ("httpx", "httpcore", "requests", "urllib3", "httpx2")
_NETWORK_NAMES = frozenset(
    {"ConnectionError", "ConnectError", "ConnectTimeout", "ReadTimeout", "Timeout", "MaxRetryError", "ReadError"}
)


def describe_failure(error: BaseException, *, step: Step, folder: Path) -> Failure:
    """Returns the failure for an error, looking at its causes too.

    `folder` is on the disk that the step writes to: libraries that hide ENOSPC are found out by its free room.
    """
    for cause in _iterate_causes(error):
        if isinstance(cause, TrainerError):
            return Failure(cause.code, cause.message, param=cause.param, step=step, retryable=cause.retryable)
    if _is_disk_full(error, folder):
        return Failure(DiskFullError.code, f"{step}: no space left on the host's disk", step=step)
    text = _one_line(error)
    for cause in _iterate_causes(error):
        known = _describe_known(cause, step=step, text=text)
        if known is not None:
            return known
    code = "user_code" if _is_raised_below_user_code(error) else "internal_error"
    return Failure(code, text, step=step)


def _describe_known(cause: BaseException, *, step: Step, text: str) -> Failure | None:
    names = {base.__name__ for base in type(cause).__mro__}
    words = str(cause).lower()
    # By name: this module is read by processes that never import torch.
    if "OutOfMemoryError" in names or _has_any(words, _DEVICE_MEMORY_TEXTS):
        return Failure(DeviceMemoryError.code, text, step=step)
    if isinstance(cause, MemoryError) or _has_any(words, _HOST_MEMORY_TEXTS):
        return Failure(HostMemoryError.code, text, step=step, retryable=True)
    if isinstance(cause, RuntimeError) and _has_any(words, _DEVICE_TEXTS):
        return Failure("device_error", text, step=step, retryable=True)
    if _is_network_error(cause, names):
        return Failure(NetworkError.code, text, step=step, retryable=True)
    return None


def _is_network_error(cause: BaseException, names: set[str]) -> bool:
    module = type(cause).__module__.partition(".")[0]
    return isinstance(cause, ConnectionError) or (module in _NETWORK_MODULES and bool(names & _NETWORK_NAMES))


def _is_disk_full(error: BaseException, folder: Path) -> bool:
    for cause in _iterate_causes(error):
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if _has_any(str(cause).lower(), _DISK_FULL_TEXTS):
            return True
    # torch.save says "PytorchStreamWriter failed writing file" and nothing of the reason.
    return isinstance(error, RuntimeError | OSError) and shutil.disk_usage(folder).free < _NO_ROOM_BYTES


def _has_any(words: str, texts: tuple[str, ...]) -> bool:
    return any(text in words for text in texts)


def _iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the error and what led to it, each once."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return f"{name}: {lines[0]}" if lines else name


def _is_raised_below_user_code(error: BaseException) -> bool:
    """Says whether a file took part that is neither ours nor a library: a plugin in its author's folder."""
    own_folder = Path(__file__).resolve().parents[1]
    library_folders = [Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")]
    library_folders.append(Path(sys.base_prefix).resolve())
    for frame in traceback.extract_tb(error.__traceback__):
        path = Path(frame.filename)
        if not path.is_absolute() or path.is_relative_to(own_folder):
            continue
        if not any(path.resolve().is_relative_to(folder) for folder in library_folders):
            return True
    return False
