"""Our own way into uvicorn: it ends open streams at once, and exits with status 0."""

import asyncio
import signal
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.log_setup import configure_logging
from app.main import create_app
from app.settings import Settings
from app.stalled_clients import build_connection_class
from app.telemetry import add_trace_ids, name_service

GRACEFUL_SECONDS = 6
"""How long requests in flight may take to finish after a stop was asked for."""
KEEP_ALIVE_SECONDS = 75
"""Longer than the idle time of common proxies, so that they never send into a connection that is being closed."""
BACKLOG = 2048


class Server(uvicorn.Server):
    """A server whose streams end when it is asked to stop, not when their jobs do."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called by the signal. The base class would raise it again at the end, for an exit status of -15."""
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True
        services = getattr(self._app.state, "services", None)
        if services is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(services.live.stop)


def run_server(settings: Settings, *, listener: socket.socket | None = None) -> None:
    """Serves until SIGTERM or SIGINT; raises SystemExit (3) when the app cannot start.

    `listener` is a bound socket to serve on; None: `settings.host` and `settings.port`.
    """
    configure_logging(settings.log_level, extra=(add_trace_ids,))
    name_service("finesmith-server")
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        # httptools parses in C; h11 cost a third of the rate.
        http=build_connection_class(settings.stall_seconds, on_stalled=app.state.instruments.stalled_clients.inc),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GRACEFUL_SECONDS,
    )
    Server(config, app).run(sockets=[listener] if listener is not None else None)


def bind_listener(host: str, port: int) -> socket.socket:
    """Binds a TCP socket; port 0 takes a free one. Raises OSError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
