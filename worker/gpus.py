"""The GPUs of this host, by NVIDIA's management library: no CUDA context is made."""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device."""

    index: int
    """As CUDA_VISIBLE_DEVICES takes it, in the order of the PCI bus."""
    name: str
    memory_bytes: int


def find_gpus(wanted: Collection[int] | None = None, *, environ: Mapping[str, str] = os.environ) -> tuple[Gpu, ...]:
    """Returns the devices that this worker may use, lowest index first; none where there is no driver.

    `wanted` None: all that CUDA_VISIBLE_DEVICES of the worker's own environment leaves visible. Raises ValueError for a
    wanted index that the host does not have.
    """
    found = _list_devices()
    if wanted is None:
        visible = _read_visible_indices(environ)
        return tuple(gpu for gpu in found if visible is None or gpu.index in visible)
    missing = sorted(set(wanted) - {gpu.index for gpu in found})
    if missing:
        raise ValueError(f"FINESMITH_WORKER_GPUS names GPUs that this host does not have: {missing}")
    return tuple(gpu for gpu in found if gpu.index in wanted)


def _read_visible_indices(environ: Mapping[str, str]) -> frozenset[int] | None:
    """None: no restriction, or one by UUID, which the worker cannot map to indices without a CUDA context."""
    text = environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return frozenset(int(part) for part in parts) if all(part.isdecimal() for part in parts) else None


def _list_devices() -> tuple[Gpu, ...]:
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.info("no GPU: %s", error)
        return ()
    try:
        return tuple(_describe_device(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    finally:
        pynvml.nvmlShutdown()


def _describe_device(pynvml: object, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)  # type: ignore[attr-defined]
    name = pynvml.nvmlDeviceGetName(handle)  # type: ignore[attr-defined]
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)  # type: ignore[attr-defined]
    return Gpu(
        index=index, name=name.decode() if isinstance(name, bytes) else str(name), memory_bytes=int(memory.total)
    )
