"""OpenTelemetry of this process: whether the standard OTEL_* variables ask for traces, and what carries them on."""

import importlib.util
import logging
import os
import re
from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from opentelemetry import trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.id_generator import IdGenerator

logger = logging.getLogger(__name__)

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_NEEDED_MODULES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http.trace_exporter")


def is_tracing_on(environ: Mapping[str, str] = os.environ) -> bool:
    """True when an OTLP endpoint is named and nothing speaks against it; tells in the log what does."""
    endpoint = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    is_off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() or "otlp"
    if not endpoint or is_off or exporter == "none":
        return False
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    if exporter != "otlp" or protocol != "http/protobuf":
        logger.warning("no traces: OTEL_TRACES_EXPORTER must be otlp and OTEL_EXPORTER_OTLP_PROTOCOL http/protobuf")
        return False
    if not _is_installed():
        logger.warning("no traces: OTEL_EXPORTER_OTLP_ENDPOINT needs `pip install 'finesmith-server[telemetry]'`")
        return False
    return True


def build_tracer_provider(service_name: str, *, ids: "IdGenerator | None" = None) -> "TracerProvider":
    """A provider that sends to the OTLP endpoint of the environment. Starts a thread: build it after a fork."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name_service(service_name)
    provider = TracerProvider(resource=Resource.create(), id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def name_service(service_name: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Names this process in its traces, unless the environment does."""
    if "service.name=" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        environ.setdefault("OTEL_SERVICE_NAME", service_name)


def find_traceparent(header: str | None) -> str | None:
    """W3C trace context of the running span; without one, the caller's, handed on as it came. None: there is none."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return header if header is not None and _TRACEPARENT.fullmatch(header) else None


def add_trace_ids(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Log processor: names the trace and the span that a line belongs to."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", f"{context.trace_id:032x}")
        event.setdefault("span_id", f"{context.span_id:016x}")
    return event


def _is_installed() -> bool:
    try:
        return all(importlib.util.find_spec(module) is not None for module in _NEEDED_MODULES)
    except ModuleNotFoundError:
        return False
