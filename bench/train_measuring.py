"""What is measured of a training: the rate of windows of steps, memory, the device's own peak."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

from bench.train_cases import Case, count_parameters

LOSS_STEPS = 20


class Meter:
    """Times windows of steps; the device is waited for at their edges only."""

    def __init__(self, case: Case, *, count_tokens: Callable[[], int]) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self._case = case
        self._count_tokens = count_tokens
        self._step = 0
        self._mark = (0.0, 0)

    def finish_step(self) -> None:
        """After each optimizer step."""
        self._step += 1
        passed = self._step - self._case.num_warmup_steps
        if passed < 0 or passed % self._case.num_steps:
            return
        synchronize()
        now, tokens = time.perf_counter(), self._count_tokens()
        if passed:
            self.rates.append((tokens - self._mark[1]) / (now - self._mark[0]))
        self._mark = (now, tokens)

    @property
    def num_steps(self) -> int:
        """Of the whole run."""
        return self._case.num_warmup_steps + self._case.num_windows * self._case.num_steps


def build_watch(meter: Meter) -> Any:
    """A callback that tells the meter of each step."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            meter.finish_step()

    return Watch()


def summarize(meter: Meter, case: Case, *, losses: list[float], wall_seconds: float) -> dict[str, Any]:
    """What the driver wants of a run."""
    import torch

    facts: dict[str, Any] = {"wall_seconds": round(wall_seconds, 1)}
    if losses:
        facts["losses"] = [round(loss, 5) for loss in losses]
    if meter.rates:
        facts["tokens_per_second"] = round(median(meter.rates))
        facts["windows"] = [round(rate) for rate in meter.rates]
    if torch.cuda.is_available():
        facts["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        if meter.rates:
            operations = (4 if case.has_lora else 6) * count_parameters(case.shape)
            facts["peak_tflops"] = round(measure_peak() / 1e12)
            facts["mfu"] = round(median(meter.rates) * operations / measure_peak(), 3)
    return facts


def measure_peak() -> float:
    """Operations a second of a large bf16 product on this device, now."""
    import torch

    matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        matrix @ matrix
    synchronize()
    started_at = time.perf_counter()
    for _ in range(10):
        matrix @ matrix
    synchronize()
    return 10 * 2 * 8192**3 / (time.perf_counter() - started_at)


def reset_peak() -> None:
    """Forgets what making the model took: a quantized one is made of a whole one here."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def synchronize() -> None:
    """Waits for the device."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def find_device() -> str:
    """`cuda` or `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
