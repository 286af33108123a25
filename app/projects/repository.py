"""The SQL on projects."""

from collections.abc import Mapping

from sqlalchemy import Connection, Row, select, update
from sqlalchemy.dialects import postgresql, sqlite

from app.db.clock import db_now
from app.db.models import projects
from app.projects.views import ProjectView

_columns = tuple(projects.c)
_inserts = {dialect.dialect.name: dialect.insert(projects).on_conflict_do_nothing() for dialect in (postgresql, sqlite)}


def insert_project(connection: Connection, project_id: str, values: Mapping[str, str | int | None]) -> bool:
    """Adds a project, made now; False when there is one under the id, which stays as it is."""
    statement = _inserts[connection.dialect.name].values({**values, "id": project_id, "created_at": db_now()})
    return connection.execute(statement.returning(projects.c.id)).first() is not None


def find_project(connection: Connection, project_id: str) -> ProjectView | None:
    """The project under the id."""
    row = connection.execute(select(*_columns).where(projects.c.id == project_id)).first()
    return None if row is None else _as_view(row)


def list_projects(connection: Connection, *, after: str | None, limit: int) -> list[ProjectView]:
    """Projects by id, from the next one after the id `after`."""
    query = select(*_columns)
    if after is not None:
        query = query.where(projects.c.id > after)
    return [_as_view(row) for row in connection.execute(query.order_by(projects.c.id).limit(limit))]


def update_project(
    connection: Connection, project_id: str, changes: Mapping[str, str | int | None]
) -> ProjectView | None:
    """Changes the given columns; None when there is no such project."""
    statement = update(projects).where(projects.c.id == project_id).values(dict(changes)).returning(*_columns)
    row = connection.execute(statement).first()
    return None if row is None else _as_view(row)


def _as_view(row: Row[tuple[object, ...]]) -> ProjectView:
    return ProjectView(**row._mapping)
