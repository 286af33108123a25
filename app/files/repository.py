"""The SQL on uploaded files, always of one owner."""

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from app.db.clock import db_now
from app.db.models import files, previews
from app.files.views import FileView
from app.ids import is_id
from app.jobs.storable import make_text_storable

_columns = (
    files.c.id,
    files.c.filename,
    files.c.purpose,
    files.c.num_bytes,
    files.c.num_samples,
    files.c.sha256,
    files.c.storage_key,
    files.c.created_at,
)
_insert_file = {
    dialect.dialect.name: dialect.insert(files).on_conflict_do_nothing(
        index_elements=[files.c.owner, files.c.idempotency_key]
    )
    for dialect in (postgresql, sqlite)
}


def insert_file(
    connection: Connection,
    file: FileView,
    *,
    owner: str,
    row_keys: tuple[str, ...],
    idempotency_key: str | None = None,
) -> FileView | None:
    """Adds a file; its time is the database's now, not the given one. None when the key is another file's.

    On PostgreSQL a second upload under the same key waits here until the first has committed or rolled back.
    """
    values = {column.name: getattr(file, column.name) for column in _columns}
    values |= {
        "owner": owner,
        "row_keys": list(row_keys),
        "created_at": db_now(),
        "idempotency_key": idempotency_key,
    }
    statement = _insert_file[connection.dialect.name].values(values).returning(*_columns)
    row = connection.execute(statement).first()
    return None if row is None else FileView(**row._mapping)


def find_file_of_key(connection: Connection, idempotency_key: str, *, owner: str) -> FileView | None:
    """The owner's file that was uploaded under the key."""
    query = select(*_columns).where(files.c.owner == owner, files.c.idempotency_key == idempotency_key)
    row = connection.execute(query).first()
    return None if row is None else FileView(**row._mapping)


def find_file(connection: Connection, file_id: str, *, owner: str, lock: bool = False) -> FileView | None:
    """The owner's file; with `lock` kept for this transaction."""
    if not is_id(file_id, "file"):
        return None
    query = select(*_columns).where(files.c.id == file_id, files.c.owner == owner)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return None if row is None else FileView(**row._mapping)


def list_files(connection: Connection, *, owner: str, after: str | None, limit: int) -> list[FileView]:
    """The owner's files, newest first, beginning with the next older than `after`."""
    query = select(*_columns).where(files.c.owner == owner)
    if after is not None:
        query = query.where(files.c.id < make_text_storable(after))
    rows = connection.execute(query.order_by(files.c.id.desc()).limit(limit))
    return [FileView(**row._mapping) for row in rows]


def delete_file(connection: Connection, file_id: str, *, owner: str) -> None:
    """Removes the owner's file, and previews that show some of it; one that still waits fails when its turn comes."""
    shown = (previews.c.file_id == file_id, previews.c.owner == owner)
    connection.execute(delete(previews).where(*shown, previews.c.finished_at.is_not(None)))
    connection.execute(delete(files).where(files.c.id == file_id, files.c.owner == owner))
