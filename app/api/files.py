"""Data sets: upload, list, download, delete."""

from collections.abc import Iterator
from typing import Annotated, BinaryIO, Literal

from fastapi import APIRouter, File, Form, Request, UploadFile
from starlette.responses import Response

from app.api import examples, schemas
from app.api.deps import After, FileId, IdempotencyKey, Limit, PrincipalDep, ServicesDep
from app.api.downloads import Content, send_content
from app.api.rendering import json_response, render_deleted, render_file, render_list
from app.api.responses import Responses, error_responses, example_of
from app.storage import CHUNK_BYTES

router = APIRouter(tags=["files"])

_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
CONTENT_RESPONSES: Responses = {
    200: {"description": "The whole content.", "content": _BINARY},
    206: {"description": "The range that was asked for.", "content": _BINARY},
    304: {"description": "The client has it already (`If-None-Match`)."},
}


@router.post(
    "/v1/files",
    summary="Upload a data set",
    status_code=201,
    response_model=schemas.File,
    responses={
        **example_of(
            examples.FILE,
            status=201,
            description="The file is stored.",
            headers={"location": {"description": "Path of the file.", "schema": {"type": "string"}}},
        ),
        **error_responses(400, 413, 422),
    },
)
def create_file(
    services: ServicesDep,
    principal: PrincipalDep,
    file: Annotated[
        UploadFile,
        File(description="JSON lines in UTF-8: one JSON object a line.", json_schema_extra={"format": "binary"}),
    ],
    purpose: Annotated[Literal["fine-tune"], Form(description="What it is for.")] = "fine-tune",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Stores a file of training or validation samples. Every line has to be a JSON object; an error names the lines
    that are not. Which keys the objects need is checked by the job that uses them."""
    name = file.filename or "upload.jsonl"
    chunks = _iterate_chunks(file.file)
    stored = services.files.create(
        principal.owner,
        name,
        purpose,
        chunks,
        idempotency_key=idempotency_key,
        max_bytes=principal.limits.max_upload_bytes,
    )
    return json_response(render_file(stored), status=201, headers={"location": f"/v1/files/{stored.id}"})


@router.get(
    "/v1/files",
    summary="List files",
    response_model=schemas.ListOf[schemas.File],
    responses={
        **example_of(examples.list_of(examples.FILE), description="Your files, newest first."),
        **error_responses(422),
    },
)
def list_files(services: ServicesDep, principal: PrincipalDep, limit: Limit = 20, after: After = None) -> Response:
    """Answers your files, the newest first, one page at a time: ask on with `after`, the id of the last one."""
    page = services.files.list(principal.owner, after=after, limit=limit)
    return json_response(render_list(map(render_file, page.data), has_more=page.has_more))


@router.get(
    "/v1/files/{file_id}",
    summary="Get a file's facts",
    response_model=schemas.File,
    responses={**example_of(examples.FILE, description="Name, size and digest."), **error_responses(404, 422)},
)
def get_file(file_id: FileId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Answers what is known of the file; its content is under `/content`."""
    return json_response(render_file(services.files.get(principal.owner, file_id)))


@router.delete(
    "/v1/files/{file_id}",
    summary="Delete a file",
    response_model=schemas.DeletedObject,
    responses={
        **example_of(examples.deleted(examples.FILE), description="The file is gone."),
        **error_responses(404, 409, 422),
    },
)
def delete_file(file_id: FileId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Deletes the file with its previews, unless a job that is not over needs it."""
    services.files.delete(principal.owner, file_id)
    return json_response(render_deleted(file_id, "file"))


@router.get(
    "/v1/files/{file_id}/content",
    summary="Download a file",
    response_class=Response,
    responses={**CONTENT_RESPONSES, **error_responses(404, 416, 422)},
)
@router.head("/v1/files/{file_id}/content", include_in_schema=False)
def get_file_content(request: Request, file_id: FileId, services: ServicesDep, principal: PrincipalDep) -> Response:
    """Sends the content as it was uploaded. Takes `Range` and `If-None-Match`; the ETag is its sha256."""
    file = services.files.get(principal.owner, file_id)
    content = Content(file.storage_key, file.filename, file.num_bytes, file.sha256, media_type="application/jsonl")
    return send_content(request, services.storage, content)


def _iterate_chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk
