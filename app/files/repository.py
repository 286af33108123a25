"""The SQL on uploaded files, always of one owner."""

from sqlalchemy import Connection, delete, insert, select

from app.db.clock import db_now
from app.db.models import files
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


def insert_file(connection: Connection, file: FileView, *, owner: str, row_keys: tuple[str, ...]) -> FileView:
    """Adds a file; its time is the database's now, not the given one."""
    values = {column.name: getattr(file, column.name) for column in _columns}
    values |= {"owner": owner, "row_keys": list(row_keys), "created_at": db_now()}
    row = connection.execute(insert(files).values(values).returning(*_columns)).one()
    return FileView(**row._mapping)


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


def delete_file(connection: Connection, file_id: str) -> None:
    """Removes the row."""
    connection.execute(delete(files).where(files.c.id == file_id))
