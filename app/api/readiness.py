"""Whether the server can take jobs: asks database and Redis at once, and never longer than two seconds."""

import asyncio
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from app.api.services import Services
from app.api.single_flight import SingleFlight

CHECK_SECONDS = 1.5
"""A database or a Redis that hangs is away: whoever asks wants to know it now."""

log = structlog.get_logger("finesmith.api")


@dataclass(frozen=True, slots=True)
class Answering:
    """Which of the two answers."""

    database: bool
    redis: bool


class Readiness:
    """One app's."""

    def __init__(self, services: Services) -> None:
        self._live = services.live
        self._database = SingleFlight(services.check_database, name="readiness")

    async def check(self) -> Answering:
        """Asks both; logs why the database is away."""
        database, redis = await asyncio.gather(self._is_database_answering(), self._is_redis_answering())
        return Answering(database=database, redis=redis)

    async def _is_database_answering(self) -> bool:
        try:
            await self._database.run(timeout_seconds=CHECK_SECONDS)
        except (SQLAlchemyError, TimeoutError) as error:
            log.error("database.unavailable", error=str(error))
            return False
        return True

    async def _is_redis_answering(self) -> bool:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await self._live.is_answering()
        except TimeoutError:
            return False
