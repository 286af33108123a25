"""Counts the writes that the fence kept out: each is a worker that worked on after its job was taken away."""

import functools
import logging
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from app.db.session import transaction
from app.jobs import counter_names, counters
from app.jobs.errors import LeaseLost
from app.jobs.operations import JobOperations

logger = logging.getLogger(__name__)

Side = TypeVar("Side", bound=JobOperations)
P = ParamSpec("P")
R = TypeVar("R")


def counts_fenced(method: Callable[Concatenate[Side, P], R]) -> Callable[Concatenate[Side, P], R]:
    """Decorator of a write of the worker's side: counts a LeaseLost, then lets it through. Best effort."""

    @functools.wraps(method)
    def call(side: Side, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(side, *args, **kwargs)
        except LeaseLost:
            try:
                # The refused transaction is rolled back by now.
                with transaction(side._sessions) as connection:
                    counters.add(connection, {counter_names.FENCED_WRITES: 1})
            except SQLAlchemyError as error:
                logger.warning("a fenced write is not counted: %s", error)
            raise

    return call
