"""Projects: made, listed and changed by admins."""

import pytest

from app.projects.errors import InvalidProject, ProjectExists, ProjectNotFound
from app.projects.service import ProjectService
from tests.support.installation import CoreInstallation


@pytest.fixture
def projects(core: CoreInstallation) -> ProjectService:
    return ProjectService(core.sessions)


def test_a_project_keeps_its_name_and_limits(projects: ProjectService) -> None:
    made = projects.create("ann", name="Ann's team", max_queued_jobs=10, max_running_jobs=0)
    assert projects.get("ann") == made
    assert (made.name, made.max_queued_jobs, made.max_running_jobs) == ("Ann's team", 10, 0)
    assert projects.create("bob").name == "bob"


def test_only_what_is_given_changes(projects: ProjectService) -> None:
    made = projects.create("ann", name="Ann", max_queued_jobs=10, max_running_jobs=2)
    assert projects.update("ann", {}) == made
    changed = projects.update("ann", {"max_running_jobs": None, "name": "Anna"})
    assert (changed.name, changed.max_queued_jobs, changed.max_running_jobs) == ("Anna", 10, None)


def test_a_taken_id_is_refused_and_left_alone(projects: ProjectService) -> None:
    made = projects.create("ann", max_queued_jobs=10)
    with pytest.raises(ProjectExists):
        projects.create("ann", max_queued_jobs=11)
    assert projects.get("ann") == made


@pytest.mark.parametrize("project_id", ["", "a b", "a/b", "x" * 65, "\0", "nobody"])
def test_a_project_that_is_not_there(projects: ProjectService, project_id: str) -> None:
    with pytest.raises(ProjectNotFound):
        projects.get(project_id)
    with pytest.raises(ProjectNotFound):
        projects.update(project_id, {"name": "x"})


@pytest.mark.parametrize(
    "values", [{"name": ""}, {"name": "\0"}, {"max_queued_jobs": -1}, {"max_running_jobs": 1 << 40}]
)
def test_impossible_values_name_their_field(projects: ProjectService, values: dict) -> None:
    with pytest.raises(InvalidProject) as caught:
        projects.create("ann", **values)
    assert caught.value.param == next(iter(values))
    with pytest.raises(InvalidProject):
        projects.update("ann", {**values, "id": "bob"})


def test_projects_are_listed_by_id_in_pages(projects: ProjectService) -> None:
    for project_id in ("b", "a", "c"):
        projects.create(project_id)
    first, has_more = projects.list(after=None, limit=2)
    assert ([project.id for project in first], has_more) == (["a", "b"], True)
    rest, has_more = projects.list(after="b", limit=2)
    assert ([project.id for project in rest], has_more) == (["c"], False)
