"""The one shape of every answer that is not a success, and how each error of the app becomes it.

ApiError                    raised by routers, dependencies and middleware; always answered, never fatal
├── Unauthenticated             401: no key, or one that is wrong, expired or revoked
├── Forbidden                   403: the key's scopes do not allow the call
├── NotFound                    404: nothing under that id for this key, or no such path
├── PayloadTooLarge             413: the body is over its limit
├── RateLimited                 429: too many calls (`Retry-After` says when)
├── BodyTooSlow                 408: the body trickles in
├── BodyEncoded                 415: the body is compressed
├── RangeNotSatisfiable         416: the range lies outside the content
└── Unavailable                 503: try again later (`Retry-After` says when)
    └── DatabaseUnavailable
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response


@dataclass(frozen=True)
class ErrorDetail:
    """One problem of a request."""

    message: str
    """What is wrong and what to do, for people."""
    param: str | None
    """The field that is wrong; None when it is about no single one."""
    code: str
    """A stable word for programs."""


class ApiError(HTTPException):
    """An answer that is not a success: `details` holds all problems, `message` the first and often the only one.

    It is an HTTPException because the framework lets only these through while it reads a body.
    """

    status: int = 400
    type: str = "invalid_request_error"
    code: str = "invalid_request"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        param: str | None = None,
        details: Sequence[ErrorDetail] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status_code=status or self.status, detail=message, headers=headers)
        self.message = message
        self.type = error_type(self.status_code)
        self.code = code or self.code
        self.param = param
        self.details = tuple(details) or (ErrorDetail(message, param, self.code),)


class Unauthenticated(ApiError):
    """Raised where a key is needed and there is no valid one."""

    status, code = 401, "invalid_api_key"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"www-authenticate": 'Bearer realm="finesmith"'})


class Forbidden(ApiError):
    """Raised where the key is good but its scopes are too small."""

    status, code = 403, "insufficient_scope"


class NotFound(ApiError):
    """Raised for an id that this key may not see, as for one that does not exist."""

    status, code = 404, "not_found"


class PayloadTooLarge(ApiError):
    """Raised by the body limit, before or while the body is read."""

    status, code = 413, "body_too_large"


class RateLimited(ApiError):
    """Raised before a call is looked at that comes too soon after too many others."""

    status, code = 429, "rate_limited"

    def __init__(self, message: str, *, code: str | None = None, retry_after_seconds: int) -> None:
        shown = f"{message} Try again in {retry_after_seconds} s."
        super().__init__(shown, code=code, headers={"retry-after": str(retry_after_seconds)})


class BodyTooSlow(ApiError):
    """Raised by the body limit while the body is read; the connection is closed with it."""

    status, code = 408, "request_timeout"

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"connection": "close"})


class BodyEncoded(ApiError):
    """Raised by the body limit: what is small on the wire and huge in memory is not taken at all."""

    status, code = 415, "unsupported_encoding"


class RangeNotSatisfiable(ApiError):
    """Raised by downloads; the header tells the content's size."""

    status, code = 416, "range_not_satisfiable"

    def __init__(self, num_bytes: int) -> None:
        message = f"The range lies outside the content, which has {num_bytes} bytes."
        super().__init__(message, param="range", headers={"content-range": f"bytes */{num_bytes}"})


class Unavailable(ApiError):
    """Raised when the service cannot answer now but will again."""

    status, code = 503, "unavailable"

    def __init__(self, message: str, *, code: str | None = None, retry_after_seconds: int = 2) -> None:
        super().__init__(message, code=code, headers={"retry-after": str(retry_after_seconds)})


class DatabaseUnavailable(Unavailable):
    """Raised, or answered for what the driver raises, while the database is away."""

    def __init__(self) -> None:
        super().__init__("The database does not answer; try again in a moment.", code="database_unavailable")


_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


def error_type(status: int) -> str:
    """Returns the family of errors that a status belongs to."""
    if status >= 500:
        return "server_error"
    return _TYPES.get(status, "invalid_request_error")


def build_error_response(error: ApiError) -> Response:
    """Renders the envelope; a status that allows no body gets none."""
    headers = dict(error.headers or {})
    if error.status_code in {204, 304}:
        return Response(status_code=error.status_code, headers=headers)
    body = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "details": error.details,
    }
    return Response(
        to_json({"error": body}), status_code=error.status_code, headers=headers, media_type="application/json"
    )


def convert_http_exception(error: HTTPException) -> ApiError:
    """Turns what the framework raises by itself (no such path, wrong method, unreadable body) into an ApiError."""
    if isinstance(error, ApiError):
        return error
    # A body that the JSON parser gives up on (too deep, a number of thousands of digits) has its reason below.
    is_parsers = isinstance(error.__cause__, ValueError | RecursionError)
    reason = f"The body cannot be read: {error.__cause__}." if is_parsers else str(error.detail)
    messages = {
        404: ("There is no such path.", "not_found"),
        405: ("This path does not take this method.", "method_not_allowed"),
        400: (reason, "invalid_body"),
    }
    phrase = HTTPStatus(error.status_code).phrase
    message, code = messages.get(error.status_code, (str(error.detail), phrase.lower().replace(" ", "_")))
    return ApiError(message, status=error.status_code, code=code, headers=error.headers)
