"""Projects, for admins."""

from fastapi import APIRouter, Security
from starlette.responses import Response

from app.api import access_schemas, examples, schemas
from app.api.deps import After, Limit, ProjectId, ServicesDep
from app.api.rendering import json_response, render_list, render_project
from app.api.responses import error_responses, example_of
from app.auth import require_admin
from app.projects.errors import InvalidProject

router = APIRouter(tags=["projects"], dependencies=[Security(require_admin)])


@router.post(
    "/v1/projects",
    summary="Create a project",
    status_code=201,
    response_model=access_schemas.Project,
    responses={
        **example_of(
            examples.PROJECT,
            status=201,
            description="The project.",
            headers={"location": {"description": "Path of the project.", "schema": {"type": "string"}}},
        ),
        **error_responses(400, 409, 413, 422),
    },
)
def create_project(body: access_schemas.ProjectRequest, services: ServicesDep) -> Response:
    """Makes a project: jobs, files, secrets and keys belong to it by its id. The first key of an owner makes one too,
    with the installation's limits."""
    project = services.projects.create(
        body.id, name=body.name, max_queued_jobs=body.max_queued_jobs, max_running_jobs=body.max_running_jobs
    )
    return json_response(render_project(project), status=201, headers={"location": f"/v1/projects/{project.id}"})


@router.get(
    "/v1/projects",
    summary="List the projects",
    response_model=schemas.ListOf[access_schemas.Project],
    responses={
        **example_of(examples.list_of(examples.PROJECT), description="The projects, by id."),
        **error_responses(422),
    },
)
def list_projects(services: ServicesDep, limit: Limit = 20, after: After = None) -> Response:
    """Answers every project of the installation, by id, one page at a time: ask on with `after`, the last id."""
    found, has_more = services.projects.list(after=after, limit=limit)
    return json_response(render_list(map(render_project, found), has_more=has_more))


@router.get(
    "/v1/projects/{project_id}",
    summary="Get a project",
    response_model=access_schemas.Project,
    responses={**example_of(examples.PROJECT, description="Name and limits."), **error_responses(404, 422)},
)
def get_project(project_id: ProjectId, services: ServicesDep) -> Response:
    """Answers the project with its limits; null is the installation's limit."""
    return json_response(render_project(services.projects.get(project_id)))


@router.patch(
    "/v1/projects/{project_id}",
    summary="Change a project",
    response_model=access_schemas.Project,
    responses={
        **example_of(examples.PROJECT, description="The project as it is now."),
        **error_responses(400, 404, 413, 422),
    },
)
def update_project(project_id: ProjectId, body: access_schemas.ProjectChange, services: ServicesDep) -> Response:
    """Changes the fields that are given; a limit given as null is the installation's again."""
    changes = {name: getattr(body, name) for name in body.model_fields_set}
    if changes.get("name", "") is None:
        raise InvalidProject("name cannot be null; leave it out to keep it", param="name")
    return json_response(render_project(services.projects.update(project_id, changes)))
