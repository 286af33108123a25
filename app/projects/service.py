"""Projects: made by an admin, or together with the first key of an owner."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from app.db.session import SessionFactory, snapshot, transaction
from app.jobs.storable import is_storable_text
from app.projects import repository
from app.projects.errors import InvalidProject, ProjectExists, ProjectNotFound
from app.projects.views import PROJECT_ID, ProjectView

MAX_NAME_CHARS = 256
MAX_JOBS = 1_000_000_000
_LIMITS = ("max_queued_jobs", "max_running_jobs")


class ProjectService:
    """For admins: a project is never removed, because jobs, files and keys name it."""

    def __init__(self, sessions: SessionFactory) -> None:
        self._sessions = sessions

    def create(
        self,
        project_id: str,
        *,
        name: str | None = None,
        max_queued_jobs: int | None = None,
        max_running_jobs: int | None = None,
    ) -> ProjectView:
        """A new project; `name` None: its id. Raises InvalidProject, ProjectExists."""
        if not PROJECT_ID.fullmatch(project_id):
            raise InvalidProject("id must have 1 to 64 letters, digits or . _ @ + -", param="id")
        shown = project_id if name is None else name
        values = {"name": shown, "max_queued_jobs": max_queued_jobs, "max_running_jobs": max_running_jobs}
        _check(values)
        with transaction(self._sessions) as connection:
            if not repository.insert_project(connection, project_id, values):
                raise ProjectExists(project_id)
            return _find(connection, project_id)

    def get(self, project_id: str) -> ProjectView:
        """The project. Raises ProjectNotFound."""
        with snapshot(self._sessions) as connection:
            return _find(connection, project_id)

    def list(self, *, after: str | None, limit: int) -> tuple[Sequence[ProjectView], bool]:
        """Projects by id, from the next one after `after`, and whether more follow."""
        known = after if after is None or PROJECT_ID.fullmatch(after) else ""
        with snapshot(self._sessions) as connection:
            found = repository.list_projects(connection, after=known, limit=limit + 1)
        return found[:limit], len(found) > limit

    def update(self, project_id: str, changes: Mapping[str, str | int | None]) -> ProjectView:
        """Changes name or limits: those that are given. Raises ProjectNotFound, InvalidProject."""
        _check(changes)
        with transaction(self._sessions) as connection:
            _find(connection, project_id)
            if changes:
                repository.update_project(connection, project_id, changes)
            return _find(connection, project_id)


def ensure_project(connection: Connection, project_id: str) -> None:
    """Makes the project of an owner that has none; part of the caller's transaction."""
    repository.insert_project(connection, project_id, {"name": project_id})


def _find(connection: Connection, project_id: str) -> ProjectView:
    found = repository.find_project(connection, project_id) if PROJECT_ID.fullmatch(project_id) else None
    if found is None:
        raise ProjectNotFound(project_id)
    return found


def _check(values: Mapping[str, str | int | None]) -> None:
    for field, value in values.items():
        if field == "name":
            if not (isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and is_storable_text(value)):
                raise InvalidProject(f"name must have 1 to {MAX_NAME_CHARS} characters", param="name")
        elif field not in _LIMITS:
            raise InvalidProject(f"{field} cannot be changed; name and {' and '.join(_LIMITS)} can", param=field)
        elif value is not None and not (isinstance(value, int) and 0 <= value <= MAX_JOBS):
            raise InvalidProject(f"{field} must lie between 0 and {MAX_JOBS}, or be null", param=field)
