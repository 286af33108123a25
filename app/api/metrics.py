"""Puts the answer of `/metrics` together: this process's own figures and the installation's."""

import time
from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy import QueuePool
from sqlalchemy.exc import SQLAlchemyError

from app.api.installation_metrics import collect_installation
from app.api.instruments import Instruments
from app.api.services import Services
from app.api.single_flight import SingleFlight
from app.log_stream import LogStream
from app.monitoring.views import InstallationFigures

READ_SECONDS = 2.0
"""How long the database has to say the installation's figures; the answer goes without them then."""

log = structlog.get_logger("finesmith.metrics")


class MetricsPage:
    """One app's. The figures of the process are always told; those of the installation while the database answers."""

    def __init__(self, instruments: Instruments, services: Services, *, version: str) -> None:
        self._instruments = instruments
        self._services = services
        self._version = version
        self._read = SingleFlight(services.monitoring.read_figures, name="metrics")
        self._ticked_at = time.monotonic()

    def note_tick(self) -> None:
        """Called by the reconciler at the end of each round."""
        self._ticked_at = time.monotonic()

    async def render(self) -> bytes:
        """The page in Prometheus' text format."""
        try:
            figures = await self._read.run(timeout_seconds=READ_SECONDS)
        except (SQLAlchemyError, TimeoutError) as error:
            log.warning("metrics.incomplete", error=str(error))
            figures = None
        registry = CollectorRegistry()
        registry.register(_Figures(self._collect(figures)))
        return generate_latest(self._instruments.registry) + generate_latest(registry)

    def _collect(self, figures: InstallationFigures | None) -> list[Metric]:
        return [
            *self._collect_local(is_database_up=figures is not None),
            *(collect_installation(figures) if figures else ()),
        ]

    def _collect_local(self, *, is_database_up: bool) -> Iterator[Metric]:
        yield GaugeMetricFamily("finesmith_database_up", "1 when the database answers this server.", is_database_up)
        pool = self._services.engine.pool
        if isinstance(pool, QueuePool):
            yield GaugeMetricFamily(
                "finesmith_database_connections_in_use",
                "Connections to the database that this server uses now.",
                pool.checkedout(),
            )
        yield GaugeMetricFamily(
            "finesmith_reconciler_last_tick_age_seconds",
            "Seconds since this server's reconciler ended a round.",
            time.monotonic() - self._ticked_at,
        )
        yield CounterMetricFamily(
            "finesmith_log_lines_dropped", "Log lines that this server could not write.", LogStream.num_dropped
        )
        build = GaugeMetricFamily("finesmith_build_info", "1; the version of this server.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build


class _Figures:
    """What `generate_latest` takes."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families
