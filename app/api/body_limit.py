"""Refuses bodies over their limit, with our own error shape: at once where the length is announced, else while read."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import ApiError, PayloadTooLarge, build_error_response
from app.keys.views import Principal

UPLOAD_PATH = "/v1/files"
_MULTIPART_OVERHEAD_BYTES = 64 * 1024
"""Room for boundaries, part headers and the other fields of an upload."""


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
        limit = shown + _MULTIPART_OVERHEAD_BYTES if is_upload else shown
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > limit:
            await build_error_response(_too_large(shown, is_upload=is_upload))(scope, receive, send)
            return
        num_bytes = 0

        async def receive_within_limit() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > limit:
                raise _too_large(shown, is_upload=is_upload)
            return message

        await self.app(scope, receive_within_limit, send)

    def _find_upload_limit(self, scope: Scope) -> int:
        principal: Principal | None = scope.get("state", {}).get("principal")
        own = None if principal is None else principal.limits.max_upload_bytes
        return self.max_upload_bytes if own is None else own


def _too_large(limit_bytes: int, *, is_upload: bool) -> ApiError:
    what, code = ("A file", "file_too_large") if is_upload else ("The body of this request", "body_too_large")
    return PayloadTooLarge(f"{what} may have at most {limit_bytes} bytes.", code=code)
