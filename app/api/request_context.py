"""Gives every request an id, a log line and its place in the metrics."""

import logging
import re
import secrets
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

from app.api.instruments import Instruments
from app.ids import is_id

REQUEST_ID_HEADER = "x-request-id"
SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer that does not say otherwise: it is private, and not to be shown as something that it is not."""
_SAFE_HEADERS = [(name.encode(), value.encode()) for name, value in SAFE_HEADERS.items()]
_REQUEST_ID_KEY = b"x-request-id"
_SANE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_UNLOGGED_PATHS = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds by machines."""

_SLOW_SECONDS = 1.0
_JOBS_PREFIX = "/v1/jobs/"

log = structlog.get_logger("finesmith.request")
logger = logging.getLogger("finesmith.request")
"""Asked for its level alone: a line for every request costs a tenth of its time, so that all are logged at DEBUG."""


def get_request_id(scope: Scope) -> str:
    """Returns the id of the request that this scope belongs to; empty outside of the middleware."""
    request_id: str = scope.get("state", {}).get("request_id", "")
    return request_id


class RequestContext:
    """Outermost middleware of our own, plain ASGI: it costs no task and buffers nothing."""

    def __init__(self, app: ASGIApp, *, instruments: Instruments) -> None:
        self.app = app
        self.instruments = instruments

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _choose_request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        bind_contextvars(request_id=request_id, **_name_job(scope["path"]))
        started = time.perf_counter()
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = list(message["headers"])
                given = {name for name, _ in headers}
                headers += [header for header in _SAFE_HEADERS if header[0] not in given]
                headers.append((_REQUEST_ID_KEY, request_id.encode()))
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        finally:
            self._record(scope, status=status, seconds=time.perf_counter() - started)
            clear_contextvars()

    def _record(self, scope: Scope, *, status: int, seconds: float) -> None:
        path = scope["path"]
        route = getattr(scope.get("route"), "path", None) or "unmatched"
        self.instruments.record_request(scope["method"], route, status=status, seconds=seconds)
        if path in _UNLOGGED_PATHS and status < 500:
            return
        is_notable = status >= 400 or seconds >= _SLOW_SECONDS
        if not (is_notable or logger.isEnabledFor(logging.DEBUG)):
            return
        log.info(
            "request",
            method=scope["method"],
            path=path,
            status=status,
            milliseconds=round(seconds * 1000, 2),
        )


def _name_job(path: str) -> dict[str, str]:
    """The job that a request is about; whatever else a client writes there is no id."""
    name = path.removeprefix(_JOBS_PREFIX).partition("/")[0] if path.startswith(_JOBS_PREFIX) else ""
    return {"job_id": name} if is_id(name, "job") else {}


def _choose_request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == _REQUEST_ID_KEY:
            given: str = value.decode("latin-1")
            if _SANE_ID.fullmatch(given):
                return given
    return "req-" + secrets.token_hex(12)
