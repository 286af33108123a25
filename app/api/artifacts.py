"""What a job produced: list and download."""

from pathlib import PurePosixPath
from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import Response

from app.api import examples, schemas
from app.api.deps import JobId, PrincipalDep, ServicesDep
from app.api.downloads import Content, send_content
from app.api.files import CONTENT_RESPONSES
from app.api.rendering import json_response, render_artifact, render_list
from app.api.responses import error_responses, example_of

router = APIRouter(tags=["artifacts"])


@router.get(
    "/v1/jobs/{job_id}/artifacts",
    summary="List a job's artifacts",
    response_model=schemas.ListOf[schemas.Artifact],
    responses={
        **example_of(examples.list_of(examples.ARTIFACT), description="The files, with size and digest."),
        **error_responses(404, 422),
    },
)
def list_job_artifacts(job_id: JobId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Answers the files that the job has published so far: adapter, full, fused and quantized model, prepared data."""
    artifacts = services.jobs.list_artifacts(principal.owner, job_id)
    return json_response(render_list(map(render_artifact, artifacts), has_more=False))


@router.get(
    "/v1/jobs/{job_id}/artifacts/{path:path}",
    summary="Download an artifact",
    response_class=Response,
    responses={**CONTENT_RESPONSES, **error_responses(404, 416, 422)},
)
@router.head("/v1/jobs/{job_id}/artifacts/{path:path}", include_in_schema=False)
def get_job_artifact(
    request: Request,
    job_id: JobId,
    path: Annotated[
        str, Path(max_length=1024, description="As the list has it.", examples=["fused/model.safetensors"])
    ],
    services: ServicesDep,
    principal: PrincipalDep,
) -> Response:
    """Sends one file of the job. Takes `Range` and `If-None-Match`; the ETag is its sha256."""
    artifact = services.jobs.get_artifact(principal.owner, job_id, path)
    name = PurePosixPath(artifact.path).name
    content = Content(artifact.storage_key, name, artifact.num_bytes, artifact.sha256)
    return send_content(request, services.storage, content)
