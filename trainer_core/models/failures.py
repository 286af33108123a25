"""How torch, the disk and the model libraries say that something ran out, told as the trainer's own errors."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainer_core.errors import DeviceMemoryError, DiskFullError, HostMemoryError, ModelLoadError, TrainerError

_DISK_FULL_WORDS = ("No space left on device", "os error 28", "file write failed", "Disk quota exceeded")


@contextmanager
def resource_errors(doing: str) -> Iterator[None]:
    """Raises DeviceMemoryError, HostMemoryError or DiskFullError for what torch and the system raise in the block.

    `doing` completes the sentence "… ran out while <doing>".
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        message = (
            f"the GPU's memory ran out while {doing}; lower per_device_train_batch_size or max_length, set "
            f"use_gradient_checkpointing=True, or load_in_4bit=True with apply_lora=True ({error})"
        )
        raise DeviceMemoryError(message) from error
    except MemoryError as error:
        raise HostMemoryError(f"the host's memory ran out while {doing}") from error
    # safetensors and torch.save tell a full disk in words, through errors of their own.
    except Exception as error:
        if is_disk_full(error):
            raise DiskFullError(f"the disk was full while {doing}: {error}") from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of any library says that the disk is full."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    is_writers_error = isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError"
    return is_writers_error and any(word in str(error) for word in _DISK_FULL_WORDS)


@contextmanager
def load_errors(what: str, *, param: str) -> Iterator[None]:
    """Raises ModelLoadError, naming the Config's key `param`, for what the libraries raise when `what` cannot be
    loaded; a full disk stays what it is."""
    try:
        yield
    except (OSError, ValueError, ImportError, KeyError, AttributeError) as error:
        if is_disk_full(error) or isinstance(error, TrainerError):
            raise
        raise ModelLoadError(f"{what} cannot be loaded: {error}", param=param) from error
