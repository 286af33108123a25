"""What FastAPI's own OpenTelemetry support does in this app."""

from collections.abc import MutableMapping
from typing import Any

from fastapi.telemetry import TelemetryConfig

from app.telemetry import is_tracing_on

_UNTRACED_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds by machines."""


def build_telemetry_config() -> TelemetryConfig:
    """A span a request where the OTEL_* variables ask for traces, nothing else: figures are Prometheus' part, and log
    records with exceptions in them would carry users' data to another place."""
    is_on = is_tracing_on()
    return TelemetryConfig(
        tracing=is_on,
        metrics=False,
        logs=False,
        operation_spans=False,
        auto_configure=is_on,
        exclude=_is_untraced,
    )


def _is_untraced(scope: MutableMapping[str, Any]) -> bool:
    return scope["path"] in _UNTRACED_PATHS
