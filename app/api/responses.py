"""How the OpenAPI document describes answers: one example a success, one error shape for the rest."""

from typing import Any

from app.api.schemas import ErrorBody

Responses = dict[int | str, dict[str, Any]]

_ERRORS: dict[int, tuple[str, str, str, str | None]] = {
    400: (
        "The body cannot be read.",
        "invalid_json",
        "The body is not valid JSON: syntax error at character 12.",
        None,
    ),
    401: ("No key, or one that is wrong, expired or revoked.", "invalid_api_key", "This call needs an API key.", None),
    403: (
        "The key's scopes do not allow this.",
        "insufficient_scope",
        "This call needs a key with the scope `submit`.",
        None,
    ),
    404: ("Nothing under that id for this key.", "job_not_found", "There is no such job.", "job_id"),
    409: (
        "Its state does not allow this.",
        "invalid_transition",
        "A job that has succeeded cannot be cancelled.",
        None,
    ),
    408: ("The body came too slowly.", "request_timeout", "The body came at less than 1000 bytes a second.", None),
    413: ("The body is over the limit.", "body_too_large", "The body may have at most 1048576 bytes.", None),
    415: (
        "The body is compressed, which is not taken.",
        "unsupported_encoding",
        "Send the body as it is, without `Content-Encoding`.",
        None,
    ),
    416: ("The range lies outside the content.", "range_not_satisfiable", "The content has 12 bytes.", "range"),
    422: (
        "Well formed but not acceptable; `details` names every problem.",
        "unknown_key",
        "No such key.",
        "config.lora_rnak",
    ),
    429: (
        "Too many requests of this key, or too many of yours are unfinished; `Retry-After` says when to ask again.",
        "rate_limited",
        "This key may make 120 requests a minute. Try again in 1 s.",
        None,
    ),
    500: (
        "The service failed; its log tells more under the request id.",
        "internal_error",
        "The service failed.",
        None,
    ),
    503: ("Not now; `Retry-After` says when.", "unavailable", "Too many streams are open.", None),
}
_OF_EVERY_BODY = (408, 415)
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


def error_responses(*statuses: int) -> Responses:
    """Documents these statuses with the error envelope; what can be too large can also be too slow or compressed."""
    found = {*statuses, *_OF_EVERY_BODY} if 413 in statuses else {*statuses}
    return {status: _describe_error(status) for status in sorted(found)}


def example_of(
    example: object, *, description: str, status: int = 200, headers: dict[str, Any] | None = None
) -> Responses:
    """Documents a success with an example of its JSON."""
    answer: dict[str, Any] = {"description": description, "content": {"application/json": {"example": example}}}
    if headers:
        answer["headers"] = headers
    return {status: answer}


def stream_of(example: dict[str, Any], *, event_id: str, event: str, description: str) -> Responses:
    """Documents a call that answers a list, or a stream with `Accept: text/event-stream`."""
    answer: dict[str, Any] = {"object": "list", "data": [example], "has_more": False}
    stream = {
        "schema": {"type": "string", "description": "Server-sent events; `data` is one JSON object of the list."},
        "example": f'event: {event}\ndata: {{"id": "{example["id"]}", …}}\nid: {event_id}\n\n'
        'event: end\ndata: {"status": "succeeded"}\n\n',
    }
    content = {"application/json": {"example": answer}, "text/event-stream": stream}
    return {200: {"description": description, "content": content}}


def log_of(example: dict[str, Any], *, event_id: str, event: str, description: str) -> Responses:
    """As `stream_of`, and with `Accept: text/plain` a text that takes ranges."""
    answers = stream_of(example, event_id=event_id, event=event, description=description)
    text = {"text/plain": {"schema": {"type": "string"}, "example": f"{example['text']}\n"}}
    answers[200]["content"] |= text
    answers[206] = {"description": "The range of the text that was asked for.", "content": text}
    answers[304] = {"description": "The client has the text already (`If-None-Match`)."}
    return answers


def _describe_error(status: int) -> dict[str, Any]:
    description, code, message, param = _ERRORS[status]
    problem = {"message": message, "param": param, "code": code}
    type_ = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    details = [problem] if status == 422 else []
    example = {"error": {**problem, "type": type_, "details": details}}
    return {
        "description": description,
        "model": ErrorBody,
        "content": {"application/json": {"example": example}},
        "headers": {"x-request-id": {"description": "Id of this request.", "schema": {"type": "string"}}},
    }
