"""What this installation can do: the keys of its components, and the schema of its Config."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from app.api import examples, schemas
from app.api.deps import PrincipalDep, ServicesDep
from app.api.rendering import json_response
from app.api.responses import error_responses, example_of
from app.errors import NotFound
from trainer_core.config import Config, build_config_schema

router = APIRouter(tags=["installation"])


@router.get(
    "/v1/registries",
    summary="List the component keys",
    response_model=schemas.Registries,
    responses=example_of(examples.REGISTRIES, description="Keys by registry."),
)
def list_registries(services: ServicesDep, principal: PrincipalDep) -> Response:
    """Answers the values that `dataset_key`, `collator_key`, `trainer_key`, `experiment_key`, `quantizer_key` and
    `config_key` can have: those that a worker announced within 24 hours."""
    catalogue = services.workers.current_catalogue()
    return json_response({"object": "registries", "data": catalogue.registries})


@router.get(
    "/v1/config/schema",
    summary="Get the Config's JSON Schema",
    response_model=schemas.JsonSchema,
    responses={
        **example_of(examples.CONFIG_SCHEMA, description="A JSON Schema (draft 2020-12)."),
        **error_responses(404, 422),
    },
)
def get_config_schema(
    services: ServicesDep,
    principal: PrincipalDep,
    config_key: Annotated[
        str, Query(max_length=200, description="Which Config, as the key in a job's config.")
    ] = "base",
    key: Annotated[str | None, Query(max_length=200, description="The same.", deprecated=True)] = None,
) -> Response:
    """Answers every key of a Config with its type, default, bounds and meaning."""
    name, param = (config_key, "config_key") if key is None else (key, "key")
    if name == "base":
        return json_response(build_config_schema(Config))
    schema: Any = services.workers.current_catalogue().configs.get(name)
    if schema is None:
        message = f"No worker has announced a Config under the key {name!r}."
        raise NotFound(message, code="config_not_found", param=param)
    return json_response(schema)
