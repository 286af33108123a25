"""The SQL on API keys."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, case, insert, select, update

from app.db.clock import db_now
from app.db.models import api_keys

_columns = (*api_keys.c, db_now().label("now"))


def insert_key(connection: Connection, values: Mapping[str, Any], *, expires_in_seconds: float | None) -> Row[Any]:
    """Adds a key; times by the database's clock."""
    expires_at = None if expires_in_seconds is None else db_now() + expires_in_seconds
    statement = insert(api_keys).values(**values, created_at=db_now(), expires_at=expires_at)
    return connection.execute(statement.returning(*_columns)).one()


def find_key(connection: Connection, *, digests: Sequence[str]) -> Row[Any] | None:
    """The key with one of these digests."""
    return connection.execute(select(*_columns).where(api_keys.c.digest.in_(digests))).first()


def lock_key(connection: Connection, key_id: str) -> Row[Any] | None:
    """The key, locked until the transaction ends."""
    return connection.execute(select(*_columns).where(api_keys.c.id == key_id).with_for_update()).first()


def list_keys(connection: Connection) -> list[Row[Any]]:
    """All keys, oldest first."""
    return list(connection.execute(select(*_columns).order_by(api_keys.c.id)))


def note_use(connection: Connection, key_id: str, *, digest: str) -> None:
    """Notes that the key was used now, and its digest under the present secret key."""
    connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(last_used_at=db_now(), digest=digest))


def replace_key(connection: Connection, key_id: str, *, by: str, overlap_seconds: float) -> None:
    """Notes which key came in the place of this one, which ends after the overlap unless it ends sooner."""
    ends_at = db_now() + overlap_seconds
    sooner = case((api_keys.c.expires_at < ends_at, api_keys.c.expires_at), else_=ends_at)
    statement = update(api_keys).where(api_keys.c.id == key_id)
    connection.execute(statement.values(expires_at=sooner, replaced_by=by))


def revoke_key(connection: Connection, key_id: str) -> Row[Any] | None:
    """Revokes a key once; the key, or None when there is none."""
    fresh = update(api_keys).where(api_keys.c.id == key_id, api_keys.c.revoked_at.is_(None))
    connection.execute(fresh.values(revoked_at=db_now()))
    return connection.execute(select(*_columns).where(api_keys.c.id == key_id)).first()
