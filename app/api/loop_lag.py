"""Measures how long the event loop lets a timer wait: what every request waits on top of its own work."""

import asyncio

from prometheus_client import Histogram

INTERVAL_SECONDS = 0.25


async def watch_loop_lag(histogram: Histogram) -> None:
    """Observes until it is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + INTERVAL_SECONDS
        await asyncio.sleep(INTERVAL_SECONDS)
        histogram.observe(max(0.0, loop.time() - due))
