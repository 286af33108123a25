"""Our own way into uvicorn: it ends open streams at once, exits with status 0, and logs JSON."""

import asyncio
import logging
import signal
import socket
import sys
from types import FrameType
from typing import TextIO, cast

import structlog
import uvicorn
from fastapi import FastAPI

from app.api.stalls import build_connection_class
from app.log_stream import LogStream
from app.main import create_app
from app.settings import Settings

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
    configure_logging(settings.log_level)
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


def configure_logging(level: str) -> None:
    """One JSON object a line on standard error, for structlog and the standard library alike."""
    number = logging.getLevelNamesMapping()[level.upper()]
    # A line is written within a request: one that cannot be would end it as a 500.
    stream = cast(TextIO, LogStream(sys.stderr))
    shared: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=number, force=True)
