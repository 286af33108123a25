"""When traces are made, and how a request's context goes on."""

import subprocess
import sys

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from app import telemetry
from app.api.telemetry_config import build_telemetry_config
from app.telemetry import add_trace_ids, find_traceparent, is_tracing_on, name_service

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
VALID = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("environ", "is_on"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:4318/v1/traces"}, True),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "true"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, False),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "zipkin"}, False),
        ({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, False),
    ],
)
def test_traces_are_on_when_the_standard_variables_say_so(environ, is_on):
    assert is_tracing_on(environ) is is_on


def test_without_the_sdk_there_are_no_traces_and_a_line_says_what_to_install(monkeypatch, caplog):
    # The SDK is installed where the tests run.
    monkeypatch.setattr(telemetry, "_NEEDED_MODULES", ("opentelemetry.sdk_that_is_not_there.trace",))
    assert is_tracing_on(ENDPOINT) is False
    assert "finesmith-server[telemetry]" in caplog.text


def test_off_is_the_default_and_loads_nothing():
    assert build_telemetry_config()["tracing"] is False
    # Where the SDK is installed, redis imports parts of it by itself.
    wanted = "('opentelemetry.exporter', 'opentelemetry.sdk.trace')"
    code = f"import app.main, worker.tracing, sys; print([n for n in sys.modules if n.startswith({wanted})])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        (VALID, True),
        (None, False),
        ("", False),
        (VALID.upper(), False),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", False),
        ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", False),
        (VALID + "\n", False),
        (VALID + "-extra", False),
        ("01" + VALID[2:], False),
    ],
)
def test_only_a_valid_header_goes_on(header, kept):
    assert find_traceparent(header) == (header if kept else None)


def test_the_running_span_wins_over_the_header_and_stands_in_the_log():
    context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        assert find_traceparent(VALID) == f"00-{1:032x}-{2:016x}-01"
        assert add_trace_ids(None, "", {}) == {"trace_id": f"{1:032x}", "span_id": f"{2:016x}"}
    assert add_trace_ids(None, "", {}) == {}


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "finesmith-server"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=mine"}, None),
    ],
)
def test_the_environment_may_name_the_service(environ, name):
    name_service("finesmith-server", environ)
    assert environ.get("OTEL_SERVICE_NAME") == name
