"""uvicorn's connection with bounds: heads that are too large, too slow or ambiguous end it, in our own error shape."""

import asyncio

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.api.request_context import SAFE_HEADERS
from app.errors import ApiError, build_error_response

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together; the parser itself has no bound."""
MAX_HEADERS = 100
HEAD_SECONDS = 20.0
"""How long a connection may take to send a whole head: the first one, or one that it has begun."""
LINGER_SECONDS = 10.0
"""How long a body is read and dropped after its answer, so that the client gets to read that."""
_SINGLE_HEADERS = frozenset({b"host", b"authorization", b"content-type", b"idempotency-key"})
"""Of two of these one reader takes the first, another one the last."""
_HTTP_VERSIONS = frozenset({"1.0", "1.1"})


class _Refusal(Exception):
    """Ends the parsing from within a callback of the parser, which wraps it."""


class BoundedHttpProtocol(HttpToolsProtocol):
    """One connection. What two parsers could read differently is refused, so that no proxy in front is misled."""

    _num_head_bytes = 0
    _is_in_head = True
    _refusal: ApiError | None = None
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Also starts the clock: a connection that says nothing is closed too."""
        super().connection_made(transport)
        self._set_deadline(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Also stops the clock."""
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts a head before the parser does, which keeps a line to itself until it is whole."""
        if self._is_in_head:
            self._num_head_bytes += len(data)
        super().data_received(data)
        if not self._is_in_head or self.transport.is_closing():
            return
        if self._num_head_bytes > MAX_HEAD_BYTES:
            self._refusal = _head_too_large()
            self.send_400_response("")
        elif self._num_head_bytes and self._deadline is None:
            self._set_deadline(HEAD_SECONDS)

    def on_message_begin(self) -> None:
        """A new head on the connection."""
        super().on_message_begin()
        self._is_in_head, self._refusal, self._num_parsed_bytes = True, None, 0
        self._seen: set[bytes] = set()

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind a chunked body: that one is dropped, since the headers were acted upon."""
        if not self._is_in_head:
            return
        super().on_header(name, value)
        self._count(len(name) + len(value))
        lower = name.lower()
        if lower in _SINGLE_HEADERS:
            if lower in self._seen:
                self._refuse(f"A request has one `{lower.decode()}` header, not several.")
            self._seen.add(lower)
        elif lower == b"transfer-encoding" and value.strip().lower() != b"chunked":
            self._refuse("Of the transfer encodings only `chunked` is taken.")

    def on_headers_complete(self) -> None:
        """The head is whole: last checks, then the request starts."""
        version = self.parser.get_http_version()
        if version not in _HTTP_VERSIONS:
            self._refuse("Only HTTP/1.1 and HTTP/1.0 are spoken here.")
        if version == "1.1" and b"host" not in self._seen:
            self._refuse("A request has a `Host` header.")
        self._is_in_head, self._num_head_bytes = False, 0
        self._clear_deadline()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is whole; what comes next is another head."""
        super().on_message_complete()
        self._is_in_head = True
        self._clear_deadline()

    def on_response_complete(self) -> None:
        """An answer that did not wait for the body leaves a bounded time to send the rest of it."""
        super().on_response_complete()
        if not self._is_in_head and not self.transport.is_closing():
            self._set_deadline(LINGER_SECONDS)

    def send_400_response(self, msg: str) -> None:
        """Answers in the one shape of errors, and closes."""
        if self.transport.is_closing():
            return
        error = self._refusal or ApiError("This is no valid HTTP/1.1 request.", code="invalid_http")
        # An answer that is under way must not be mixed with another one.
        if self.cycle is None or self.cycle.response_complete or not (self.cycle.response_started or self.pipeline):
            self.transport.write(_encode(build_error_response(error)))
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _count(self, num_bytes: int) -> None:
        self._num_parsed_bytes += num_bytes
        if self._num_parsed_bytes > MAX_HEAD_BYTES or len(self.headers) > MAX_HEADERS:
            self._refusal = _head_too_large()
            raise _Refusal

    def _refuse(self, message: str) -> None:
        self._refusal = ApiError(message, code="invalid_http")
        raise _Refusal

    def _set_deadline(self, seconds: float) -> None:
        self._clear_deadline()
        self._deadline = self.loop.call_later(seconds, self._end_slow)

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end_slow(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._num_head_bytes and self._is_in_head:
            message = f"The head of a request has to be sent within {HEAD_SECONDS:.0f} seconds."
            self._refusal = ApiError(message, status=408, code="request_timeout")
            self.send_400_response("")
        else:
            self.transport.close()


def _head_too_large() -> ApiError:
    message = f"The head of a request may have {MAX_HEADERS} headers and {MAX_HEAD_BYTES} bytes."
    return ApiError(message, status=431, code="headers_too_large")


def _encode(response: Response) -> bytes:
    """The answer as bytes: outside of a request there is nobody to send it."""
    response.headers.update(SAFE_HEADERS)
    lines = [name + b": " + value + b"\r\n" for name, value in response.raw_headers]
    return b"".join([STATUS_LINE[response.status_code], *lines, b"connection: close\r\n\r\n", response.body])
