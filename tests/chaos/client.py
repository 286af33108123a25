"""A client that takes any of several servers, none of which need be there."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

TIMEOUT_SECONDS = 10.0
FINAL = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer and how long it took, in seconds."""

    status: int
    body: Any
    headers: dict[str, str]
    seconds: float


class Unanswered(Exception):
    """The server was gone, or said nothing in time: what became of the request is unknown."""


class Client:
    """Calls servers by turns; safe to use from several threads, for every call has a connection of its own."""

    def __init__(self, ports: Sequence[int], *, key: str) -> None:
        self._ports = itertools.cycle(ports)
        self._key = key

    def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        idempotency_key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> Answer:
        """One try at one server. Raises Unanswered."""
        connection = HTTPConnection("127.0.0.1", next(self._ports), timeout=timeout_seconds)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        started = time.monotonic()
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            content = answer.read()
            seconds = time.monotonic() - started
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, json.loads(content or b"null"), names, seconds)
        except (OSError, HTTPException, ValueError) as error:
            raise Unanswered(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()

    def insist(self, method: str, path: str, *, seconds: float = 60.0, **options: Any) -> Answer:
        """Tries again until there is an answer below 500. Raises Unanswered when there is none in time."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                answer = self.call(method, path, **options)
                if answer.status < 500:
                    return answer
                said = f"{method} {path}: {answer.status}"
            except Unanswered as error:
                said = str(error)
            if time.monotonic() > deadline:
                raise Unanswered(said)
            time.sleep(0.1)

    def upload(self, content: bytes) -> str:
        """Uploads a training file; returns its id. Raises Unanswered."""
        boundary = "----chaos"
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
        connection = HTTPConnection("127.0.0.1", next(self._ports), timeout=TIMEOUT_SECONDS)
        headers = {
            "Authorization": f"Bearer {self._key}",
            "Content-Type": f"multipart/form-data; boundary={boundary}",
        }
        try:
            body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
            connection.request("POST", "/v1/files", body, headers)
            return str(json.loads(connection.getresponse().read())["id"])
        except (OSError, HTTPException, ValueError, KeyError) as error:
            raise Unanswered(f"upload: {error!r}") from error
        finally:
            connection.close()

    def read_stream(self, path: str, *, after: int, timeout_seconds: float = 20.0) -> Iterator[tuple[str, Any]]:
        """Server-sent events of one connection as (name, data), after the number `after`. Raises Unanswered."""
        connection = HTTPConnection("127.0.0.1", next(self._ports), timeout=timeout_seconds)
        headers = {"Authorization": f"Bearer {self._key}", "Accept": "text/event-stream"}
        if after:
            headers["Last-Event-ID"] = f"evt-{after}"
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise Unanswered(f"{path}: {answer.status}")
            name = "message"
            while line := answer.readline():
                if line.startswith(b"event: "):
                    name = line[7:].decode().strip()
                elif line.startswith(b"data: "):
                    yield name, json.loads(line[6:])
                    name = "message"
        except (OSError, HTTPException, ValueError) as error:
            raise Unanswered(f"{path}: {error!r}") from error
        finally:
            connection.close()


class Follower(threading.Thread):
    """Follows one job's events live, reconnects whenever the stream breaks, and notes every hole and every repeat."""

    def __init__(self, client: Client, job_id: str, *, is_over: Callable[[], bool]) -> None:
        super().__init__(name=f"follow-{job_id}", daemon=True)
        self._client, self._path, self._is_over = client, f"/v1/jobs/{job_id}/events", is_over
        self.job_id = job_id
        self.last_seq = 0
        self.num_connections = 0
        self.faults: list[str] = []
        self.has_ended = False

    def run(self) -> None:
        """Until the stream says that the job is over, or nobody wants to know any more."""
        while not self._is_over() and not self.has_ended:
            self.num_connections += 1
            try:
                for name, data in self._client.read_stream(self._path, after=self.last_seq):
                    self._look_at(name, data)
                    if self.has_ended or self._is_over():
                        return
            except Unanswered:
                time.sleep(0.2)

    def _look_at(self, name: str, data: Any) -> None:
        if name == "end":
            self.has_ended = True
            return
        seq = data.get("seq") if isinstance(data, dict) else None
        if seq is None:
            return
        if seq != self.last_seq + 1:
            self.faults.append(f"{self.job_id}: {seq} came after {self.last_seq}")
        self.last_seq = max(seq, self.last_seq)
