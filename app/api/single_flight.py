"""A blocking call that may hang, made by one thread at a time: whoever asks waits a bounded time, and hangs nothing."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

Result = TypeVar("Result")


class SingleFlight(Generic[Result]):
    """Wraps one call. While it runs, all who ask wait for the same answer; in one event loop only.

    The threads that requests share would be used up by a database that hangs: one for each time it is asked for.
    """

    def __init__(self, call: Callable[[], Result], *, name: str) -> None:
        self._call = call
        self._name = name
        self._running: asyncio.Future[Result] | None = None

    async def run(self, *, timeout_seconds: float) -> Result:
        """What the call returns or raises. Raises TimeoutError when it takes longer; it goes on then."""
        if self._running is None or self._running.done():
            loop = asyncio.get_running_loop()
            self._running = loop.create_future()
            # Nobody may wait for it any more when it ends.
            self._running.add_done_callback(_take_exception)
            arguments = (loop, self._running)
            threading.Thread(target=self._fly, args=arguments, name=self._name, daemon=True).start()
        running = self._running
        done, _ = await asyncio.wait({running}, timeout=timeout_seconds)
        if not done:
            raise TimeoutError(f"no answer within {timeout_seconds:g} s")
        return running.result()

    def _fly(self, loop: asyncio.AbstractEventLoop, running: "asyncio.Future[Result]") -> None:
        try:
            result = self._call()
        # Handed to those who wait, whatever it is.
        except BaseException as error:  # noqa: BLE001
            _settle(loop, running.set_exception, error)
        else:
            _settle(loop, running.set_result, result)


def _settle(loop: asyncio.AbstractEventLoop, settle: Callable[..., None], value: object) -> None:
    # The loop may be closed meanwhile: the server has stopped.
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(settle, value)


def _take_exception(future: "asyncio.Future[Result]") -> None:
    if not future.cancelled():
        future.exception()
