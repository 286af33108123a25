"""A local fake of the Hub's HTTP API: repositories with commits, listings, downloads and pushes.

The real `huggingface_hub` client and `datasets.load_dataset` work against it. Client processes find it by HF_ENDPOINT,
which must be set before they import huggingface_hub. It has no Xet storage: a client that has hf_xet installed asks for
it whatever the hub answers, so that whoever pushes here sets HF_HUB_DISABLE_XET=1.
"""

import threading
from http.server import ThreadingHTTPServer
from types import TracebackType
from typing import Self

from tests.support.hub_requests import HubRequestHandler
from tests.support.hub_state import Fault, HubState, Repository, User

__all__ = ["FakeHub", "Fault", "Repository", "User"]


class FakeHub(HubState):
    """Serves while it is entered as a context manager."""

    def __init__(self, *, part_bytes: int | None = None) -> None:
        """`part_bytes`: larger files are asked for in parts of this size."""
        super().__init__(part_bytes=part_bytes)
        self._server = _Server(self)

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is to be."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        # A short poll, so that leaving takes no half second.
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """Gives its handlers the hub."""

    daemon_threads = True

    def __init__(self, hub: FakeHub) -> None:
        super().__init__(("127.0.0.1", 0), HubRequestHandler)
        self.hub = hub

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed, or a connection that was broken on purpose, is no news."""
