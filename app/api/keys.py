"""API keys, for admins."""

from fastapi import APIRouter, Security
from starlette.responses import Response

from app.api import access_schemas, examples, schemas
from app.api.deps import KeyId, ServicesDep
from app.api.rendering import json_response, render_deleted, render_key, render_list
from app.api.responses import error_responses, example_of
from app.auth import require_admin
from app.errors import ApiError
from app.keys.errors import InvalidKeyRequest
from app.keys.views import KeyLimits

router = APIRouter(tags=["keys"], dependencies=[Security(require_admin)])


@router.post(
    "/v1/keys",
    summary="Create an API key",
    status_code=201,
    response_model=access_schemas.NewKey,
    responses={
        **example_of(examples.NEW_KEY, status=201, description="The key; it is shown this once."),
        **error_responses(400, 413, 422),
    },
)
def create_key(body: access_schemas.KeyRequest, services: ServicesDep) -> Response:
    """Makes a key for an owner: keys of one owner see the same jobs and files, and nobody else's."""
    limits = KeyLimits(body.max_requests_per_minute, body.max_upload_bytes)
    try:
        key, plaintext = services.keys.create(
            body.owner, body.name, tuple(body.scopes), expires_in_seconds=body.expires_in_seconds, limits=limits
        )
    except InvalidKeyRequest as error:
        raise ApiError(str(error), status=422, code="invalid_value") from error
    return json_response({**render_key(key), "key": plaintext}, status=201)


@router.post(
    "/v1/keys/{key_id}/rotate",
    summary="Replace an API key by a new one",
    status_code=201,
    response_model=access_schemas.NewKey,
    responses={
        **example_of(examples.NEW_KEY, status=201, description="The new key; it is shown this once."),
        **error_responses(400, 404, 409, 413, 422),
    },
)
def rotate_key(key_id: KeyId, services: ServicesDep, body: access_schemas.KeyRotation | None = None) -> Response:
    """Makes a key with the same owner, name, scopes, limits and lifetime. The earlier one ends after
    `overlap_seconds`, and names the new one in `replaced_by`."""
    overlap_seconds = 0.0 if body is None else body.overlap_seconds
    try:
        key, plaintext = services.keys.rotate(key_id, overlap_seconds=overlap_seconds)
    except InvalidKeyRequest as error:
        raise ApiError(str(error), status=422, code="invalid_value") from error
    return json_response({**render_key(key), "key": plaintext}, status=201)


@router.get(
    "/v1/keys",
    summary="List the API keys",
    response_model=schemas.ListOf[access_schemas.Key],
    responses=example_of(examples.list_of(examples.KEY), description="All keys, without the keys themselves."),
)
def list_keys(services: ServicesDep) -> Response:
    """Answers every key of the installation, revoked ones included."""
    return json_response(render_list(map(render_key, services.keys.list()), has_more=False))


@router.delete(
    "/v1/keys/{key_id}",
    summary="Revoke an API key",
    response_model=schemas.DeletedObject,
    responses={
        **example_of(
            examples.deleted(examples.KEY), description="The key opens nothing from 30 seconds on, at the latest."
        ),
        **error_responses(404, 422),
    },
)
def revoke_key(key_id: KeyId, services: ServicesDep) -> Response:
    """Revokes a key; every server forgets it within 30 seconds."""
    services.keys.revoke(key_id)
    return json_response(render_deleted(key_id, "key"))
