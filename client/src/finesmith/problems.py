"""Reads what the service said about a call that it did not carry out."""

import json
from collections.abc import Mapping

from finesmith.errors import APIProblem, ErrorDetail
from finesmith.retry import parse_retry_after

MAX_FOREIGN_TEXT = 300
"""Characters of an answer that is not the service's own which are quoted in the error."""


def read_problem(status_code: int, *, headers: Mapping[str, str], body: bytes) -> APIProblem:
    """Never raises: an answer in another shape (a proxy's page) is quoted as it is. `headers` ignores case."""
    error = _error_object(body)
    retry_after_seconds = parse_retry_after(headers.get("retry-after"))
    request_id = headers.get("x-request-id")
    if error is None:
        text = " ".join(body.decode("utf-8", "replace").split())[:MAX_FOREIGN_TEXT]
        message = text or "The answer has no body."
        return APIProblem(status_code, message, request_id=request_id, retry_after_seconds=retry_after_seconds)
    return APIProblem(
        status_code,
        _text(error.get("message")) or "The service gave no message.",
        type=_text(error.get("type")),
        param=_text(error.get("param")),
        code=_text(error.get("code")),
        details=read_problems(error),
        request_id=request_id,
        retry_after_seconds=retry_after_seconds,
    )


def read_problems(error: object) -> tuple[ErrorDetail, ...]:
    """All problems that an error object names, in its order; none for null."""
    if not isinstance(error, Mapping):
        return ()
    details = error.get("details")
    found = [item for item in details if isinstance(item, Mapping)] if isinstance(details, list) else []
    return tuple(_read_detail(item) for item in found or [error])


def _read_detail(item: Mapping[str, object]) -> ErrorDetail:
    return ErrorDetail(_text(item.get("message")) or "", param=_text(item.get("param")), code=_text(item.get("code")))


def _error_object(body: bytes) -> Mapping[str, object] | None:
    try:
        value = json.loads(body)
    except ValueError:
        return None
    error = value.get("error") if isinstance(value, dict) else None
    return error if isinstance(error, dict) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
