"""How long a process waits for a hub: the client's own connections wait for ever."""

import httpx
from huggingface_hub import set_client_factory
from huggingface_hub.utils import _http as hub_http

CONNECT_SECONDS = 20.0
SILENCE_SECONDS = 120.0
"""Without a byte in either direction the connection counts as broken."""
MAX_RETRY_AFTER_SECONDS = 30
"""The client sleeps as long as an answer's Retry-After says; longer pauses are the service's own."""


def bound_waiting() -> None:
    """Gives every request of this process a time limit. It changes the whole process: for processes of a job only."""
    set_client_factory(_build_client)


def _build_client() -> httpx.Client:
    client = hub_http.default_client_factory()
    client.timeout = httpx.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
    client.event_hooks = {**client.event_hooks, "response": [*client.event_hooks["response"], _cap_retry_after]}
    return client


def _cap_retry_after(response: httpx.Response) -> None:
    value = response.headers.get("Retry-After", "")
    if value.isdigit() and int(value) > MAX_RETRY_AFTER_SECONDS:
        response.headers["Retry-After"] = str(MAX_RETRY_AFTER_SECONDS)
