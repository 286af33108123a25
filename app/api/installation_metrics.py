"""The installation's figures in Prometheus' words: from the database, so the same whichever server answers."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from app.jobs.counter_names import (
    ALL_LABEL,
    DISPATCH_LAG,
    FENCED_WRITES,
    LOST,
    PRIORITY_CLASSES,
    QUEUE_WAIT,
    CountedHistogram,
    find_outcome,
    name_attempts,
)
from app.jobs.workers import GpuReading, WorkerView
from app.monitoring.views import InstallationFigures
from app.states import JobStatus

_OUTCOMES = ("succeeded", "failed", "cancelled", "requeued", LOST)
"""Always shown, so that a rate is 0 and not missing before the first."""


def collect_installation(figures: InstallationFigures) -> Iterator[Metric]:
    """All metric families of the installation."""
    yield from _collect_jobs(figures)
    yield from _collect_counters(figures.counters)
    yield from _collect_workers(figures.workers)
    yield from _collect_gpus(figures.workers)
    pending = GaugeMetricFamily("finesmith_webhook_deliveries_pending", "Webhook messages that are not delivered yet.")
    pending.add_metric([], figures.num_pending_deliveries)
    yield pending


def _collect_jobs(figures: InstallationFigures) -> Iterator[Metric]:
    jobs = GaugeMetricFamily("finesmith_jobs", "Jobs by state.", labels=["status"])
    for status in JobStatus:
        jobs.add_metric([status.value], figures.jobs.get(status, 0))
    depth = GaugeMetricFamily("finesmith_queue_depth", "Queued jobs by class of priority.", labels=["priority"])
    age = GaugeMetricFamily(
        "finesmith_queue_oldest_age_seconds",
        "How long the longest-waiting job that could run has waited, by class of priority.",
        labels=["priority"],
    )
    for name, queue in figures.queue.items():
        depth.add_metric([name], queue.num_jobs)
        age.add_metric([name], queue.oldest_age_seconds)
    speed = GaugeMetricFamily(
        "finesmith_tokens_per_second",
        "Tokens per second of the running jobs, added up by worker and step.",
        labels=["worker", "step"],
    )
    for each in figures.speeds:
        speed.add_metric([each.worker_id, each.step], each.tokens_per_second)
    yield from (jobs, depth, age, speed)


def _collect_counters(counters: Mapping[str, int]) -> Iterator[Metric]:
    attempts = CounterMetricFamily("finesmith_attempts", "Attempts that have ended, by how.", labels=["outcome"])
    found = {outcome for name in counters if (outcome := find_outcome(name)) is not None}
    for outcome in sorted({*_OUTCOMES, *found}):
        attempts.add_metric([outcome], counters.get(name_attempts(outcome), 0))
    reclaims = CounterMetricFamily(
        "finesmith_lease_reclaims", "Jobs taken back from workers that gave no sign of life."
    )
    reclaims.add_metric([], counters.get(name_attempts(LOST), 0))
    fenced = CounterMetricFamily(
        "finesmith_fenced_writes", "Writes refused because the job was taken from their worker before."
    )
    fenced.add_metric([], counters.get(FENCED_WRITES, 0))
    wait = HistogramMetricFamily(
        "finesmith_queue_wait_seconds",
        "Seconds from when a job could run to its claim, pauses after failures left out, by class of priority.",
        labels=["priority"],
    )
    for name in PRIORITY_CLASSES:
        _add_histogram(wait, [name], counters, histogram=QUEUE_WAIT, label=name)
    lag = HistogramMetricFamily("finesmith_dispatch_lag_seconds", "Seconds from a job's wake-up to its claim.")
    _add_histogram(lag, [], counters, histogram=DISPATCH_LAG, label=ALL_LABEL)
    yield from (attempts, reclaims, fenced, wait, lag)


def _add_histogram(
    family: HistogramMetricFamily,
    labels: list[str],
    counters: Mapping[str, int],
    *,
    histogram: CountedHistogram,
    label: str,
) -> None:
    total = 0
    buckets: list[tuple[str, float]] = []
    for index in range(len(histogram.bounds) + 1):
        total += counters.get(histogram.bucket(label, index), 0)
        bound = f"{histogram.bounds[index]:g}" if index < len(histogram.bounds) else "+Inf"
        buckets.append((bound, total))
    family.add_metric(labels, buckets, sum_value=counters.get(histogram.sum(label), 0) / 1000)


def _collect_workers(workers: tuple[WorkerView, ...]) -> Iterator[Metric]:
    online = [worker for worker in workers if worker.status == "online"]
    count = GaugeMetricFamily("finesmith_workers", "Workers seen in the last 24 hours, by state.", labels=["status"])
    count.add_metric(["online"], len(online))
    count.add_metric(["offline"], len(workers) - len(online))
    slots = GaugeMetricFamily("finesmith_worker_slots", "Jobs that the workers that are online can run at a time.")
    slots.add_metric([], sum(worker.slots for worker in online))
    yield from (count, slots)


def _collect_gpus(workers: tuple[WorkerView, ...]) -> Iterator[Metric]:
    labels = ["worker", "host", "gpu"]
    total = GaugeMetricFamily("finesmith_gpu_memory_bytes", "Memory of a GPU.", labels=labels)
    used = GaugeMetricFamily("finesmith_gpu_memory_used_bytes", "Memory of a GPU that is in use.", labels=labels)
    busy = GaugeMetricFamily(
        "finesmith_gpu_utilization_ratio", "Share of the time in which a GPU was at work, 0 to 1.", labels=labels
    )
    for worker in workers:
        readings: Mapping[int, GpuReading] = {reading.index: reading for reading in worker.gpu_readings}
        for gpu in worker.gpus if worker.status == "online" else ():
            values = [worker.id, worker.host, str(gpu.index)]
            total.add_metric(values, gpu.memory_bytes)
            if reading := readings.get(gpu.index):
                used.add_metric(values, reading.memory_used_bytes)
                busy.add_metric(values, reading.utilization)
    yield from (total, used, busy)
