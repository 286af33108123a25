"""What the app counts about itself, for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)


class Instruments:
    """One app's counters, in a registry of their own so that two apps in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "finesmith_http_requests", "HTTP requests.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "finesmith_http_request_seconds",
            "Seconds from a request's first byte to its answer's last (streams and waits included).",
            ["method", "route"],
            buckets=_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self.streams = Gauge("finesmith_sse_clients", "Open event streams.", registry=self.registry)
        self.stalled_clients = Counter(
            "finesmith_stalled_clients",
            "Connections that were cut off because their client took nothing of its answer.",
            registry=self.registry,
        )
        self.jobs = Gauge("finesmith_jobs", "Jobs by state.", ["status"], registry=self.registry)

    def record_request(self, method: str, route: str, *, status: int, seconds: float) -> None:
        """Counts one finished request; `route` is the path's template, so that ids make no new series."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
