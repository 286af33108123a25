"""Sends calls to the service: adds the key, repeats what may be repeated, turns every failure into our own error."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from finesmith.errors import APIConnectionError, APIError, APITimeoutError, UnexpectedResponseError, error_for
from finesmith.problems import read_problem
from finesmith.retry import parse_retry_after
from finesmith.settings import ClientSettings
from finesmith.version import __version__
from finesmith.wire import JsonValue

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 10.0

NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
"""Failures after which the service cannot have seen the call."""


@dataclass(frozen=True)
class Call:
    """One call to the service."""

    method: str
    path: str
    """Below the base URL, already quoted, with the leading `/v1`."""
    params: Mapping[str, str | int] = field(default_factory=dict)
    """The query."""
    headers: Mapping[str, str] = field(default_factory=dict)
    json: object = None
    """The body; None: no body."""
    upload: Path | None = None
    """A file to be streamed as the multipart field `file`."""
    form: Mapping[str, str] = field(default_factory=dict)
    """Further multipart fields."""
    read_timeout_seconds: float | None = None
    """How long the service may be silent; None: the client's timeout."""
    is_idempotent: bool = True
    """True if carrying it out twice does no harm: it is repeated also when it may have arrived."""
    is_retried: bool = True
    """False if the caller repeats it by itself."""
    answer_statuses: frozenset[int] = frozenset()
    """Statuses above 299 whose body is an answer to this call, no error."""


class Transport:
    """Owns the connections. Safe to share between threads."""

    def __init__(self, settings: ClientSettings) -> None:
        self.settings = settings
        self._http = httpx2.Client(
            base_url=settings.base_url,
            headers={
                "Authorization": f"Bearer {settings.api_key}",
                "User-Agent": f"finesmith-python/{__version__}",
                "Accept": "application/json",
            },
            # A proxy from the environment is never meant for the service on one's own machine.
            mounts=dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]")),
            # A redirect could carry the key to another host, so none is followed.
            follow_redirects=False,
        )

    def close(self) -> None:
        """Closes all connections; the transport cannot be used after."""
        self._http.close()

    def send(self, call: Call) -> JsonValue:
        """Carries the call out and returns the answer's JSON (None for an empty answer).

        Raises an APIError once the retries that the call allows are spent.
        """
        num_failures = 0
        while True:
            num_failures += 1
            try:
                response = self._send_once(call)
            except httpx2.RequestError as error:
                delay_seconds = self.settings.retry.delay_after_disconnect(
                    num_failures=num_failures,
                    idempotent=call.is_idempotent,
                    was_sent=not isinstance(error, NEVER_SENT),
                )
                if delay_seconds is None or not call.is_retried:
                    raise _connection_error(error, call) from error
            else:
                delay_seconds = self._delay_after(response, call, num_failures=num_failures)
                if delay_seconds is None or not call.is_retried:
                    return _read_json(response, call)
            logger.debug("%s %s failed %d times, next in %.1f s", call.method, call.path, num_failures, delay_seconds)
            time.sleep(delay_seconds)

    @contextmanager
    def open_stream(self, call: Call) -> Iterator[httpx2.Response]:
        """Opens an answer whose body the caller reads inside the `with` block; never repeats anything by itself.

        Raises an APIError when the service refuses, and also when the connection breaks while the body is read.
        """
        try:
            with ExitStack() as files:
                response = self._http.send(self._build_request(call, files), stream=True)
            with closing(response):
                if response.status_code >= 300:
                    response.read()
                    _raise_for_status(response)
                yield response
        except httpx2.RequestError as error:
            raise _connection_error(error, call) from error

    def _send_once(self, call: Call) -> httpx2.Response:
        with ExitStack() as files:
            return self._http.send(self._build_request(call, files))

    def _build_request(self, call: Call, files: ExitStack) -> httpx2.Request:
        seconds = self.settings.timeout_seconds
        read_seconds = seconds if call.read_timeout_seconds is None else call.read_timeout_seconds
        body: dict[str, object] = {}
        if call.upload is not None:
            stream = files.enter_context(call.upload.open("rb"))
            body = {"files": {"file": (call.upload.name, stream, "application/jsonl")}, "data": dict(call.form)}
        elif call.json is not None:
            body = {"content": json.dumps(call.json, allow_nan=False).encode()}
        headers = {**call.headers, **({"Content-Type": "application/json"} if "content" in body else {})}
        return self._http.build_request(
            call.method,
            call.path,
            params=dict(call.params),
            headers=headers,
            timeout=httpx2.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT_SECONDS), read=read_seconds),
            **body,  # type: ignore[arg-type]
        )

    def _delay_after(self, response: httpx2.Response, call: Call, *, num_failures: int) -> float | None:
        return self.settings.retry.delay_after_status(
            response.status_code,
            num_failures=num_failures,
            idempotent=call.is_idempotent,
            retry_after_seconds=parse_retry_after(response.headers.get("retry-after")),
        )


def _read_json(response: httpx2.Response, call: Call) -> JsonValue:
    if response.status_code not in call.answer_statuses:
        _raise_for_status(response)
    if not response.content:
        return None
    try:
        answer: JsonValue = response.json()
    except ValueError as error:
        message = f"{response.request.url} did not answer JSON: does base_url lead to a Finesmith service?"
        raise UnexpectedResponseError(message) from error
    return answer


def _raise_for_status(response: httpx2.Response) -> None:
    if response.status_code >= 400:
        raise error_for(read_problem(response.status_code, headers=response.headers, body=response.content))
    if response.status_code >= 300:
        place = response.headers.get("location", "nowhere")
        raise UnexpectedResponseError(f"The service redirects to {place}: set base_url to where it really is.")


def _connection_error(error: httpx2.RequestError, call: Call) -> APIError:
    cause = str(error) or type(error).__name__
    if isinstance(error, httpx2.TimeoutException):
        return APITimeoutError(f"{call.method} {call.path} got no answer in time ({type(error).__name__}).")
    return APIConnectionError(f"{call.method} {call.path} got no answer: {cause}")
