"""Refuses bodies that are too large, too slow or compressed, with our own error shape: at once where the head tells,
else while they are read."""

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ApiError, BodyEncoded, BodyTooSlow, PayloadTooLarge, build_error_response
from app.keys.views import Principal

UPLOAD_PATH = "/v1/files"
_MULTIPART_OVERHEAD_BYTES = 64 * 1024
"""Room for boundaries, part headers and the other fields of an upload."""
BODY_GRACE_SECONDS = 20.0
MIN_BYTES_PER_SECOND = 1000
"""After the grace a body has to have come at this rate: a slow line does, a client that only holds connections not."""


class BodyLimit:
    """Middleware within AuthGate, because a key may have a limit of its own on uploads.

    The framework's own limit answers in plain text when nobody has read the body.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_upload_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_upload = scope["path"] == UPLOAD_PATH and scope["method"] == "POST"
        shown = self._find_upload_limit(scope) if is_upload else self.max_body_bytes
        body = _Body(receive, shown, is_upload=is_upload)
        refusal = body.check_head(Headers(scope=scope))
        if refusal is not None:
            await build_error_response(refusal)(scope, receive, send)
            return
        await self.app(scope, body.receive, send)

    def _find_upload_limit(self, scope: Scope) -> int:
        principal: Principal | None = scope.get("state", {}).get("principal")
        own = None if principal is None else principal.limits.max_upload_bytes
        return self.max_upload_bytes if own is None else own


class _Body:
    """The body of one request while it comes in."""

    def __init__(self, receive: Receive, shown_bytes: int, *, is_upload: bool) -> None:
        self._receive = receive
        self._shown_bytes = shown_bytes
        self._is_upload = is_upload
        self._limit_bytes = shown_bytes + _MULTIPART_OVERHEAD_BYTES if is_upload else shown_bytes
        self._num_bytes = 0
        self._is_complete = False
        self._started_at: float | None = None

    def check_head(self, headers: Headers) -> ApiError | None:
        """What the head alone tells to be wrong."""
        if headers.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
            return BodyEncoded("Send the body as it is, without `Content-Encoding`: compressed ones are not taken.")
        announced = headers.get("content-length", "")
        return self._too_large() if announced.isdecimal() and int(announced) > self._limit_bytes else None

    async def receive(self) -> Message:
        """The next message. Raises PayloadTooLarge, BodyTooSlow."""
        if self._is_complete:
            # What is waited for is the client's leaving, for as long as the answer takes.
            return await self._receive()
        now = time.monotonic()
        self._started_at = self._started_at or now
        until = self._started_at + BODY_GRACE_SECONDS + self._num_bytes / MIN_BYTES_PER_SECOND
        try:
            async with asyncio.timeout(until - now):
                message = await self._receive()
        except TimeoutError:
            self._is_complete = True
            raise BodyTooSlow(f"The body came at less than {MIN_BYTES_PER_SECOND} bytes a second.") from None
        self._is_complete = not message.get("more_body", False)
        self._num_bytes += len(message.get("body", b""))
        if self._num_bytes > self._limit_bytes:
            raise self._too_large()
        return message

    def _too_large(self) -> ApiError:
        what, code = ("A file", "file_too_large") if self._is_upload else ("The body of this request", "body_too_large")
        return PayloadTooLarge(f"{what} may have at most {self._shown_bytes} bytes.", code=code)
