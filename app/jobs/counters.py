"""The SQL on what is counted for good: totals that only grow, whatever jobs are deleted, and whichever server is asked.

A transaction that counts locks the counters' rows until its commit: count last, or nothing but one name.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from app.db.models import counters

_inserts = {dialect.dialect.name: dialect.insert for dialect in (postgresql, sqlite)}


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
