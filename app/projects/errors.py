"""Errors of the service of projects.

JobStoreError
├── ProjectNotFound      get, update: there is no such project
├── ProjectExists        create: the id is taken
└── InvalidProject       create, update: a value cannot be
"""

from app.jobs.errors import JobStoreError


class ProjectNotFound(JobStoreError):
    code = "project_not_found"

    def __init__(self, project_id: str) -> None:
        super().__init__(f"no project {project_id!a}", param="project_id")


class ProjectExists(JobStoreError):
    code = "project_exists"

    def __init__(self, project_id: str) -> None:
        super().__init__(f"there is a project {project_id} already", param="id")


class InvalidProject(JobStoreError):
    code = "invalid_value"
