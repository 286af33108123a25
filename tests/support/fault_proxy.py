"""A TCP proxy on the loopback that makes a link slow, narrow, deaf or dead, as networks do."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_READ_BYTES = 1 << 16
# On, and no time to linger: closing sends a reset in place of a farewell.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Link:
    """How the link behaves; as it stands: like none at all."""

    delay_seconds: float = 0.0
    """Added to whatever passes, in each direction."""
    bytes_per_second: float | None = None
    """None: as fast as it comes."""
    is_deaf: bool = False
    """Half-open: connections are accepted, what is sent vanishes, and nothing comes back."""
    is_down: bool = False
    """Connections are refused."""
    is_resetting: bool = False
    """Connections are accepted and reset at their first byte."""


WORKING = Link()


class FaultProxy:
    """Leads from a port of its own to a unix socket. Its loop runs in a thread; all methods are for other threads."""

    def __init__(self) -> None:
        self.upstream: Path | None = None
        """Where it leads; set it before the first connection."""
        self._link = WORKING
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._thread.start()
        self.port = 0
        self._call(self._listen())

    def set(self, link: Link, *, cut: bool = True) -> None:
        """Changes the link for all that passes from now on. `cut`: open connections are reset first."""
        self._call(self._set(link, cut))

    def close(self) -> None:
        """Ends it and its connections."""
        self._call(self._set(Link(is_down=True), True))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _listen(self) -> None:
        # The same port every time: clients know no other.
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _set(self, link: Link, cut: bool) -> None:
        self._link = link
        if link.is_down and self._server is not None:
            self._server.close()
            self._server = None
        if cut:
            for writer in self._writers.copy():
                _reset(writer)
        if not link.is_down and self._server is None:
            await self._listen()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.upstream is not None
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(str(self.upstream))
        except OSError:
            _reset(writer)
            return
        ends = (writer, far_writer)
        self._writers.update(ends)
        try:
            tasks = [
                asyncio.create_task(self._relay(reader, far_writer)),
                asyncio.create_task(self._relay(far_reader, writer)),
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            self._writers.difference_update(ends)
            for end in ends:
                end.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_READ_BYTES):
            link = self._link
            if link.is_resetting:
                for each in self._writers.copy():
                    _reset(each)
                return
            if link.is_deaf:
                continue
            if link.delay_seconds:
                await asyncio.sleep(link.delay_seconds)
            if link.bytes_per_second:
                await asyncio.sleep(len(data) / link.bytes_per_second)
            writer.write(data)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    end: socket.socket | None = writer.get_extra_info("socket")
    if end is not None and end.family != socket.AF_UNIX:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    writer.transport.abort()
