"""Rounds of reclaiming, noted in the database, so that every copy of the reconciler knows of an outage."""

from dataclasses import dataclass

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from app.db.clock import db_now
from app.db.models import marks

_LAST_ROUND = "last_reclaim_round"
_RECLAIM_FROM = "reclaim_from"
_GAP_OF_LEASE = 0.25
"""Rounds come about once a second and renewals too: a gap of a quarter of a lease cannot let one run out."""


@dataclass(frozen=True, slots=True)
class Round:
    """`began_at` is the database's clock when the round began."""

    began_at: float
    may_reclaim: bool


def begin_round(connection: Connection, *, lease_seconds: float) -> Round:
    """Notes that a round begins. After a gap nothing may be reclaimed for as long as a lease lasts.

    The very first round follows no gap.
    """
    rows = connection.execute(select(marks.c.name, marks.c.at, db_now().label("now"))).all()
    known = {row.name: row.at for row in rows}
    now = rows[0].now if rows else float(connection.execute(select(db_now())).scalar_one())
    last_round, reclaim_from = known.get(_LAST_ROUND), known.get(_RECLAIM_FROM, 0.0)
    if last_round is not None and now - last_round > _GAP_OF_LEASE * lease_seconds:
        reclaim_from = now + lease_seconds
        _set_mark(connection, _RECLAIM_FROM, at=reclaim_from)
    _set_mark(connection, _LAST_ROUND, at=now)
    return Round(now, may_reclaim=now >= reclaim_from)


def _set_mark(connection: Connection, name: str, *, at: float) -> None:
    connection.execute(_upsert_mark[connection.dialect.name], {"name": name, "at": at})


_upsert_mark = {
    dialect.dialect.name: (statement := dialect.insert(marks)).on_conflict_do_update(
        index_elements=[marks.c.name], set_={"at": statement.excluded.at}
    )
    for dialect in (postgresql, sqlite)
}
