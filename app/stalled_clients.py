"""Connections whose client takes nothing of its answer any more are cut off, so that they hold no memory."""

import asyncio
from collections.abc import Callable
from typing import Any

from app.http_protocol import BoundedHttpProtocol


def build_connection_class(stall_seconds: float, *, on_stalled: Callable[[], None]) -> type[asyncio.Protocol]:
    """The bounded protocol with an end to its patience; `on_stalled` is called for every connection that is cut off.

    A client that takes anything at all within `stall_seconds` is slow, not stalled. What it has not read is lost: a
    stream is taken up again at the last event that it saw.
    """

    class Connection(BoundedHttpProtocol):
        """One client."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._stall_timer: asyncio.TimerHandle | None = None

        def pause_writing(self) -> None:
            """The transport's buffer is full."""
            super().pause_writing()
            self._watch()

        def resume_writing(self) -> None:
            """It has room again."""
            super().resume_writing()
            self._unwatch()

        def connection_lost(self, exc: Exception | None) -> None:
            """The client has left, or was cut off."""
            self._unwatch()
            super().connection_lost(exc)

        def _watch(self) -> None:
            num_bytes = self.transport.get_write_buffer_size()
            self._unwatch()
            self._stall_timer = self.loop.call_later(stall_seconds, self._check, num_bytes)

        def _unwatch(self) -> None:
            if self._stall_timer is not None:
                self._stall_timer.cancel()
                self._stall_timer = None

        def _check(self, num_bytes_before: int) -> None:
            if self.transport.get_write_buffer_size() < num_bytes_before:
                self._watch()
                return
            on_stalled()
            self.transport.abort()

    return Connection
