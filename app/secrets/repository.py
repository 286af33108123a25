"""The SQL on named secrets, always of one owner."""

from sqlalchemy import Connection, RowMapping, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from app.db.clock import db_now
from app.db.models import secrets
from app.ids import new_id
from app.secrets.cipher import SealedSecret
from app.secrets.views import SecretView, StoredSecret

VALUE_FIELD = "value"
_shown = (secrets.c.id, secrets.c.name, secrets.c.created_at, secrets.c.updated_at)
_inserts = {dialect.dialect.name: dialect.insert(secrets) for dialect in (postgresql, sqlite)}


def bind_scope(owner: str, name: str) -> str:
    """What a named secret's encryption is bound to: a value does not open in another project or under another name."""
    return f"{owner}/{name}"


def put_secret(connection: Connection, *, owner: str, name: str, sealed: SealedSecret) -> SecretView:
    """Creates the owner's secret or replaces its value, in one statement; times by the database's clock."""
    value = {"key_id": sealed.key_id, "nonce": sealed.nonce, "ciphertext": sealed.ciphertext, "updated_at": db_now()}
    made = {"id": new_id("sec"), "owner": owner, "name": name, "created_at": db_now(), **value}
    statement = _inserts[connection.dialect.name].values(made)
    statement = statement.on_conflict_do_update(index_elements=[secrets.c.owner, secrets.c.name], set_=value)
    return _as_view(connection.execute(statement.returning(*_shown)).one()._mapping)


def find_secret(connection: Connection, name: str, *, owner: str) -> SecretView | None:
    """The owner's secret of that name, without its value."""
    row = connection.execute(select(*_shown).where(secrets.c.owner == owner, secrets.c.name == name)).first()
    return None if row is None else _as_view(row._mapping)


def list_secrets(connection: Connection, *, owner: str, after: str | None, limit: int) -> list[SecretView]:
    """The owner's secrets without their values, by name, from the next one after the name `after`."""
    query = select(*_shown).where(secrets.c.owner == owner)
    if after is not None:
        query = query.where(secrets.c.name > after)
    return [_as_view(row._mapping) for row in connection.execute(query.order_by(secrets.c.name).limit(limit))]


def count_secrets(connection: Connection, *, owner: str) -> int:
    """How many secrets the owner has."""
    query = select(func.count()).select_from(secrets).where(secrets.c.owner == owner)
    return int(connection.execute(query).scalar_one())


def delete_secret(connection: Connection, name: str, *, owner: str) -> bool:
    """Removes the owner's secret; False when there is none."""
    statement = delete(secrets).where(secrets.c.owner == owner, secrets.c.name == name)
    return connection.execute(statement).rowcount == 1


def list_names(connection: Connection, *, owner: str) -> list[str]:
    """The names of the owner's secrets."""
    query = select(secrets.c.name).where(secrets.c.owner == owner).order_by(secrets.c.name)
    return list(connection.execute(query).scalars())


def find_values(connection: Connection, *, owner: str, names: list[str]) -> dict[str, StoredSecret]:
    """The encrypted values of the owner's secrets among the names, by name."""
    columns = (secrets.c.name, secrets.c.key_id, secrets.c.nonce, secrets.c.ciphertext)
    query = select(*columns).where(secrets.c.owner == owner, secrets.c.name.in_(names))
    return {
        row.name: StoredSecret(
            bind_scope(owner, row.name), SealedSecret(VALUE_FIELD, row.key_id, row.nonce, row.ciphertext)
        )
        for row in connection.execute(query)
    }


def _as_view(row: RowMapping) -> SecretView:
    return SecretView(**row)
