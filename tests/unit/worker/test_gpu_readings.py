"""How busy the GPUs are, as the driver's library says it."""

import sys
import threading
from types import SimpleNamespace

import pytest

from app.jobs.catalogue import built_in_catalogue
from app.jobs.workers import GpuReading, WorkerInfo
from worker.catalogue import LoadedCatalogue
from worker.gpus import read_gpus
from worker.presence import Presence


class NvmlError(Exception):
    """Stands for pynvml.NVMLError."""


def make_driver(*, broken: frozenset[int] = frozenset(), is_there: bool = True) -> SimpleNamespace:
    calls: list[str] = []

    def init() -> None:
        calls.append("init")
        if not is_there:
            raise NvmlError("no driver")

    def rates(handle: int) -> SimpleNamespace:
        if handle in broken:
            raise NvmlError("GPU is lost")
        return SimpleNamespace(gpu=25 * handle, memory=0)

    return SimpleNamespace(
        calls=calls,
        NVMLError=NvmlError,
        nvmlInit=init,
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=(handle + 1) << 30, total=8 << 30),
        nvmlDeviceGetUtilizationRates=rates,
    )


def test_each_gpu_is_read_and_one_that_does_not_answer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = make_driver(broken=frozenset({2}))
    # No GPU where the tests run: the library is replaced by what it would say.
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    assert read_gpus([0, 2, 3]) == (GpuReading(0, 1 << 30, 0.0), GpuReading(3, 4 << 30, 0.75))
    assert driver.calls == ["init", "shutdown"]


def test_a_host_without_a_driver_or_without_gpus_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # No GPU where the tests run: the library is replaced by what it would say.
    monkeypatch.setitem(sys.modules, "pynvml", make_driver(is_there=False))
    assert read_gpus([0]) == ()
    monkeypatch.setitem(sys.modules, "pynvml", make_driver())
    assert read_gpus([]) == ()


def test_every_sign_of_life_carries_the_readings() -> None:
    said: list[object] = []
    heard = threading.Event()

    class Service:
        """Stands for the database's side."""

        def register(self, info: WorkerInfo) -> None:
            return

        def retire(self, worker_id: str) -> None:
            return

        def heartbeat(self, worker_id: str, *, gpu_readings: object) -> bool:
            said.append(gpu_readings)
            heard.set()
            return True

    info = WorkerInfo("wrk-1", "host", gpus=(), slots=1, version="0", catalogue=built_in_catalogue())
    presence = Presence(
        Service(),  # type: ignore[arg-type]
        info=info,
        load_catalogue=lambda: LoadedCatalogue(None),
        heartbeat_seconds=0.01,
        read_gpus=lambda: [GpuReading(0, 7, 0.5)],
    )
    presence.start()
    assert heard.wait(10)
    presence.leave(on_left=lambda: None)
    presence.join(10)
    assert said[0] == [GpuReading(0, 7, 0.5)]
