"""Named secrets: tokens that jobs use as `secret:<name>`."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api import access_schemas, examples, schemas
from app.api.deps import After, Limit, PrincipalDep, SecretName, ServicesDep
from app.api.rendering import json_response, render_list, render_secret
from app.api.responses import error_responses, example_of

router = APIRouter(tags=["secrets"])


@router.put(
    "/v1/secrets/{name}",
    summary="Create or replace a secret",
    response_model=access_schemas.Secret,
    responses={
        **example_of(examples.SECRET, description="The secret, without its value."),
        **error_responses(400, 409, 413, 422),
    },
)
def put_secret(
    name: SecretName, body: access_schemas.SecretRequest, services: ServicesDep, principal: PrincipalDep
) -> Response:
    """Keeps a token encrypted under a name, which a Config then gives in its place: `"huggingface_hub_token":
    "secret:hub"`. A new value is for jobs submitted or retried from now on."""
    return json_response(render_secret(services.secrets.put(principal.owner, name, body.value)))


@router.get(
    "/v1/secrets",
    summary="List the secrets",
    response_model=schemas.ListOf[access_schemas.Secret],
    responses={
        **example_of(examples.list_of(examples.SECRET), description="The project's secrets, by name, without values."),
        **error_responses(422),
    },
)
def list_secrets(services: ServicesDep, principal: PrincipalDep, limit: Limit = 20, after: After = None) -> Response:
    """Answers the names of your project's secrets, one page at a time: ask on with `after`, the last name."""
    found, has_more = services.secrets.list(principal.owner, after=after, limit=limit)
    return json_response(render_list(map(render_secret, found), has_more=has_more))


@router.get(
    "/v1/secrets/{name}",
    summary="Get a secret's facts",
    response_model=access_schemas.Secret,
    responses={**example_of(examples.SECRET, description="Name and times."), **error_responses(404, 422)},
)
def get_secret(name: SecretName, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Answers when the secret was made and last changed; nobody gets its value."""
    return json_response(render_secret(services.secrets.get(principal.owner, name)))


@router.delete(
    "/v1/secrets/{name}",
    summary="Delete a secret",
    response_model=schemas.DeletedObject,
    responses={
        **example_of(
            {"id": "hub", "object": "secret", "deleted": True},
            description="No new job can name it; those submitted before keep their copy until they have succeeded.",
        ),
        **error_responses(404, 422),
    },
)
def delete_secret(name: SecretName, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Deletes the secret; jobs that were submitted with it go on with their own encrypted copy."""
    services.secrets.delete(principal.owner, name)
    return json_response({"id": name, "object": "secret", "deleted": True})
