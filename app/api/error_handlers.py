"""Which answer each exception of the app, its core and its libraries becomes."""

import errno
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from app.api.request_context import REQUEST_ID_HEADER, SAFE_HEADERS, get_request_id
from app.errors import (
    ApiError,
    DatabaseUnavailable,
    ErrorDetail,
    build_error_response,
    convert_http_exception,
)

log = structlog.get_logger("finesmith.api")

_CODES = {"missing": "missing_field", "extra_forbidden": "unknown_key", "json_invalid": "invalid_json"}
_NO_OBJECT = {"model_attributes_type", "model_type", "dict_type"}
_MAX_DETAILS = 100
_MAX_PARAM_CHARS = 300
_CLIENT_CLOSED_REQUEST = 499


def add_error_handlers(app: FastAPI) -> None:
    """Registers the handlers; an exception without one is answered as a 500 that says nothing of its cause."""

    @app.exception_handler(HTTPException)
    async def answer_http_exception(request: Request, error: HTTPException) -> Response:
        # The framework wraps whatever it meets while it reads a body, such as a disk too full for an upload.
        converted = _find_full_storage(error.__cause__) or convert_http_exception(error)
        response = build_error_response(converted)
        if converted.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # The router names the methods of one of the path's operations only.
            response.headers["allow"] = _find_methods(request, response.headers.get("allow", ""))
        return response

    @app.exception_handler(RequestValidationError)
    async def answer_validation_error(request: Request, error: RequestValidationError) -> Response:
        return build_error_response(convert_validation_error(error.errors()))

    @app.exception_handler(OperationalError)
    @app.exception_handler(PoolTimeout)
    async def answer_database_error(request: Request, error: Exception) -> Response:
        log.error("database.unavailable", request_id=get_request_id(request.scope), error=type(error).__name__)
        return build_error_response(DatabaseUnavailable())

    @app.exception_handler(OSError)
    async def answer_os_error(request: Request, error: OSError) -> Response:
        full = _find_full_storage(error)
        if full is None:
            raise error
        return build_error_response(full)

    @app.exception_handler(ClientDisconnect)
    async def answer_nobody(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    @app.exception_handler(Exception)
    async def answer_unexpected_error(request: Request, error: Exception) -> Response:
        request_id = get_request_id(request.scope)
        log.error("request.failed", request_id=request_id, path=request.url.path, exc_info=error)
        message = f"The service failed at this request. Its log tells more under the request id {request_id}."
        response = build_error_response(ApiError(message, status=500, code="internal_error"))
        # The middleware that sets this header on all other answers lies inside the one that calls this handler.
        response.headers.update({**SAFE_HEADERS, REQUEST_ID_HEADER: request_id})
        return response


def _find_methods(request: Request, known: str) -> str:
    """The methods of all operations of the path, for the header `Allow`: those that are known, and the document's."""
    template = getattr(request.scope.get("route"), "path_format", None)
    documented = request.app.openapi()["paths"].get(template, {})
    return ", ".join(sorted({*known.replace(" ", "").split(","), *(method.upper() for method in documented)} - {""}))


def _find_full_storage(error: BaseException | None) -> ApiError | None:
    if not isinstance(error, OSError) or error.errno not in {errno.ENOSPC, errno.EDQUOT}:
        return None
    return ApiError("The service's storage is full; nothing was stored.", status=507, code="storage_full")


def convert_validation_error(errors: Sequence[Any]) -> ApiError:
    """Names every field that is wrong (`config.lora_rank`), without echoing values, which may be secrets."""
    if errors and errors[0]["type"] == "json_invalid":
        position = errors[0]["loc"][-1]
        reason = errors[0].get("ctx", {}).get("error", "syntax error")
        return ApiError(f"The body is not valid JSON: {reason} at character {position}.", code="invalid_json")
    details = [_convert_problem(error) for error in errors[:_MAX_DETAILS]]
    first = details[0]
    return ApiError(first.message, status=422, code=first.code, param=first.param, details=details)


def _convert_problem(error: Any) -> ErrorDetail:
    param = ".".join(str(part) for part in error["loc"][1:])[:_MAX_PARAM_CHARS] or None
    code = _CODES.get(error["type"], "invalid_value")
    if param is None and error["type"] == "missing":
        return ErrorDetail("A body is required here, and there is none.", None, "missing_body")
    if param is None and error["type"] in _NO_OBJECT:
        message = "The body has to be a JSON object, sent with `Content-Type: application/json`."
        return ErrorDetail(message, None, "invalid_body")
    name = param or "body"
    messages = {"missing_field": f"`{name}` is required.", "unknown_key": f"`{name}` is not a field of this request."}
    return ErrorDetail(messages.get(code, f"`{name}`: {error['msg']}."), param, code)
