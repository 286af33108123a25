"""A collector for OTLP over HTTP on loopback, which keeps the spans that it is sent."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class ReceivedSpan:
    """What tests look at."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str | int]
    is_error: bool


class OtlpReceiver:
    """The received spans; `wait_for` waits on an event, so that no test sleeps."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._spans: list[ReceivedSpan] = []
        self._received = threading.Condition()

    def add(self, body: bytes) -> None:
        """Takes one request's body."""
        request = ExportTraceServiceRequest.FromString(body)
        with self._received:
            for resource_spans in request.resource_spans:
                facts = {each.key: each.value.string_value for each in resource_spans.resource.attributes}
                for scope in resource_spans.scope_spans:
                    self._spans += [_read(span, facts["service.name"]) for span in scope.spans]
            self._received.notify_all()

    def wait_for(self, *names: str, seconds: float = 30.0) -> list[ReceivedSpan]:
        """All spans, once there is one of each name."""
        with self._received:
            is_there = self._received.wait_for(lambda: set(names) <= {span.name for span in self._spans}, seconds)
            assert is_there, f"only {sorted({span.name for span in self._spans})}"
            return list(self._spans)


def _read(span, service: str) -> ReceivedSpan:
    attributes = {each.key: each.value.string_value or each.value.int_value for each in span.attributes}
    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
    return ReceivedSpan(service, span.name, *ids, attributes=attributes, is_error=span.status.code == 2)


@contextmanager
def run_receiver() -> Iterator[OtlpReceiver]:
    """Serves on a free port until the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.add(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver = OtlpReceiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
