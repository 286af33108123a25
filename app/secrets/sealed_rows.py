"""The SQL on everything that is encrypted, of all owners: for a change of the installation's secret key alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Table, and_, select, tuple_, update

from app.db.models import job_secrets, preview_secrets, secrets, webhooks
from app.secret_key import Purpose
from app.secrets.cipher import SealedSecret
from app.secrets.repository import VALUE_FIELD, bind_scope


@dataclass(frozen=True, slots=True)
class SealedTable:
    """A table with columns key_id, nonce and ciphertext, and how each row's encryption is bound to it."""

    table: Table
    purpose: Purpose
    scope_of: Callable[[Row[Any]], str]
    field_of: Callable[[Row[Any]], str]


SEALED_TABLES: Sequence[SealedTable] = (
    SealedTable(job_secrets, "job-secrets", lambda row: str(row.job_id), lambda row: str(row.field)),
    SealedTable(preview_secrets, "preview-secrets", lambda row: str(row.preview_id), lambda row: str(row.field)),
    SealedTable(secrets, "named-secrets", lambda row: bind_scope(row.owner, row.name), lambda row: VALUE_FIELD),
    SealedTable(webhooks, "webhook-secrets", lambda row: str(row.id), lambda row: "webhook"),
)


def list_rows_of_other_keys(
    connection: Connection, sealed: SealedTable, *, key_id: str, after: Sequence[str] | None, limit: int
) -> Sequence[Row[Any]]:
    """Rows that another key than this one encrypted, by primary key, behind the primary key `after`."""
    table = sealed.table
    primary = list(table.primary_key.columns)
    query = select(*table.c).where(table.c.key_id != key_id)
    if after is not None:
        query = query.where(tuple_(*primary) > tuple_(*after))
    return connection.execute(query.order_by(*primary).limit(limit)).all()


def read_sealed(sealed: SealedTable, row: Row[Any]) -> SealedSecret:
    """The encrypted value of a row."""
    return SealedSecret(sealed.field_of(row), row.key_id, row.nonce, row.ciphertext)


def read_primary_key(sealed: SealedTable, row: Row[Any]) -> tuple[str, ...]:
    """The row's place in the order of `list_rows_of_other_keys`."""
    return tuple(str(row._mapping[column]) for column in sealed.table.primary_key.columns)


def replace_sealed(connection: Connection, sealed: SealedTable, row: Row[Any], new: SealedSecret) -> bool:
    """Puts the new encryption in the place of the one that was read; False when the row has changed or gone since."""
    table = sealed.table
    same = [column == row._mapping[column] for column in table.primary_key.columns]
    statement = update(table).where(and_(*same, table.c.nonce == row.nonce))
    values = {"key_id": new.key_id, "nonce": new.nonce, "ciphertext": new.ciphertext}
    return connection.execute(statement.values(values)).rowcount == 1
