"""The GPUs of this host, by NVIDIA's management library: no CUDA context is made."""

import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import cast

from app.jobs.workers import GpuReading

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


def read_gpus(indices: Collection[int]) -> tuple[GpuReading, ...]:
    """How much of these devices is in use now; nothing of a device, or of all, when the driver does not say."""
    pynvml = _load_driver()
    if pynvml is None or not indices:
        return ()
    try:
        return tuple(reading for index in indices if (reading := _read_device(pynvml, index)) is not None)
    finally:
        pynvml.nvmlShutdown()


def _read_visible_indices(environ: Mapping[str, str]) -> frozenset[int] | None:
    """None: no restriction, or one by UUID, which the worker cannot map to indices without a CUDA context."""
    text = environ.get("CUDA_VISIBLE_DEVICES")
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return frozenset(int(part) for part in parts) if all(part.isdecimal() for part in parts) else None


def _list_devices() -> tuple[Gpu, ...]:
    pynvml = _load_driver()
    if pynvml is None:
        return ()
    try:
        return tuple(_describe_device(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
    finally:
        pynvml.nvmlShutdown()


def _load_driver() -> ModuleType | None:
    """The library, ready to be asked and to be shut down afterwards; None where there is no driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        logger.info("no GPU: %s", error)
        return None
    return cast(ModuleType, pynvml)


def _read_device(pynvml: ModuleType, index: int) -> GpuReading | None:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        rates = pynvml.nvmlDeviceGetUtilizationRates(handle)
    # A device that has fallen off the bus, or a partition (MIG), of which there are no rates.
    except pynvml.NVMLError as error:
        logger.debug("GPU %d does not say how busy it is: %s", index, error)
        return None
    return GpuReading(index=index, memory_used_bytes=int(memory.used), utilization=rates.gpu / 100)


def _describe_device(pynvml: ModuleType, index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    name = pynvml.nvmlDeviceGetName(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index, name=name.decode() if isinstance(name, bytes) else str(name), memory_bytes=int(memory.total)
    )
