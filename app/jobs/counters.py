"""The SQL on what is counted for good: totals that only grow, whatever jobs are deleted, and whichever server is asked.

A transaction that counts locks the counters' rows until its commit: count last, or nothing but one name.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from app.db.models import counters

FENCED_WRITES = "fenced_writes"
_ATTEMPTS = "attempts"
LOST = "lost"

_inserts = {dialect.dialect.name: dialect.insert for dialect in (postgresql, sqlite)}


@dataclass(frozen=True, slots=True)
class CountedHistogram:
    """A histogram in the table of counters: a row a bucket and label, and one for the sum, in milliseconds."""

    name: str
    bounds: tuple[float, ...]
    """Upper bounds of the buckets, seconds; one more has none."""

    def bucket(self, label: str, index: int) -> str:
        """The counter of one bucket, which does not hold those below it."""
        bound = f"{self.bounds[index]:g}" if index < len(self.bounds) else "inf"
        return f"{self.name}:{label}:{bound}"

    def sum(self, label: str) -> str:
        """The counter of the milliseconds."""
        return f"{self.name}:{label}:milliseconds"

    def observe(self, label: str, seconds: float) -> dict[str, int]:
        """What one observation adds, by counter."""
        index = next((number for number, bound in enumerate(self.bounds) if seconds <= bound), len(self.bounds))
        return {self.bucket(label, index): 1, self.sum(label): max(0, round(seconds * 1000))}


QUEUE_WAIT = CountedHistogram("queue_wait", (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 14400, 86400))
DISPATCH_LAG = CountedHistogram("dispatch_lag", (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
PRIORITY_CLASSES = ("low", "normal", "high")
ALL_LABEL = "all"


def name_priority_class(priority: int) -> str:
    """Below, at or above the default of 0: few enough to be a label."""
    return "normal" if priority == 0 else "high" if priority > 0 else "low"


def name_attempts(outcome: str) -> str:
    """The counter of the attempts that ended so."""
    return f"{_ATTEMPTS}:{outcome}"


def find_outcome(name: str) -> str | None:
    """The outcome whose attempts a counter counts; None for another counter."""
    kind, _, outcome = name.partition(":")
    return outcome if kind == _ATTEMPTS else None


def add(connection: Connection, amounts: Mapping[str, int]) -> None:
    """Adds to counters, which begin at 0."""
    # In one order, so that two transactions do not wait for each other.
    rows = [{"name": name, "value": amount} for name, amount in sorted(amounts.items())]
    statement = _inserts[connection.dialect.name](counters).values(rows)
    added = {"value": counters.c.value + statement.excluded.value}
    connection.execute(statement.on_conflict_do_update(index_elements=[counters.c.name], set_=added))


def read_all(connection: Connection) -> dict[str, int]:
    """All counters by name."""
    return {row.name: row.value for row in connection.execute(select(counters.c.name, counters.c.value))}
