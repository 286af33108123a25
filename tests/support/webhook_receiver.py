"""A receiver of webhooks on loopback: keeps what it is sent, and answers as it is told."""

import queue
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WAIT_SECONDS = 20


@dataclass(frozen=True)
class Received:
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Receiver:
    """`answers`: status and headers of the next answers; 204 when there are none left."""

    url: str
    received: "queue.Queue[Received]" = field(default_factory=queue.Queue)
    answers: "queue.Queue[tuple[int, dict[str, str]]]" = field(default_factory=queue.Queue)

    def wait(self) -> Received:
        """The next message."""
        return self.received.get(timeout=WAIT_SECONDS)


@contextmanager
def run_receiver() -> Iterator[Receiver]:
    receiver = Receiver(url="")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.received.put(Received(self.path, headers, body))
            try:
                status, answer_headers = receiver.answers.get_nowait()
            except queue.Empty:
                status, answer_headers = 204, {}
            self.send_response(status)
            for name, value in answer_headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def run_raw_server(handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A TCP server on loopback; `handle` gets each connection, in a thread. Yields its port."""
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                handle(connection)
            except OSError:
                # The sender hung up, which it may do at any time.
                return

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    listener = socket.create_server(("127.0.0.1", 0))
    acceptor = threading.Thread(target=accept, args=(listener,))
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        # Closing alone does not wake an accept.
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (acceptor, *threads):
            thread.join(WAIT_SECONDS)
