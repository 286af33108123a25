"""Turns the core's views into the JSON of the answers, without a second validation of what is known to be right."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from app.errors import ApiError
from app.files.views import FileView
from app.jobs.views import ArtifactView, JobView, LogLine
from app.jobs.workers import GpuInfo, GpuReading, WorkerView
from app.keys.views import KeyView
from app.previews.views import PreviewView
from app.projects.views import ProjectView
from app.secrets.views import SecretView
from app.stored_event import StoredEvent
from app.webhooks.views import DeliveryView, WebhookView

Json = dict[str, Any]


def json_response(value: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Serialises in Rust, dataclasses and enums included; NaN and infinities become null."""
    body = to_json(value, inf_nan_mode="null")
    return Response(body, status_code=status, headers=dict(headers or {}), media_type="application/json")


def render_list(items: Iterable[Json], *, has_more: bool) -> Json:
    """One page of a list."""
    return {"object": "list", "data": list(items), "has_more": has_more}


def render_job(job: JobView) -> Json:
    """The job's nested dataclasses are left to the serialiser."""
    return {
        "id": job.id,
        "object": "job",
        "status": job.status,
        "step": job.step,
        "steps": job.steps,
        "progress": job.progress,
        "config": job.config,
        "resources": job.resources,
        "priority": job.priority,
        "attempt": job.attempt,
        "failures": job.failures,
        "error": job.error,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "stop_requested": job.stop_requested,
        "not_before": job.not_before,
        "keep_days": job.keep_days,
        "name": job.name,
        "metadata": job.metadata,
    }


def render_event(event: StoredEvent) -> Json:
    """The same object in a list and as the data of a server-sent event."""
    return {
        "id": f"evt-{event.seq}",
        "object": "event",
        "job_id": event.job_id,
        "seq": event.seq,
        "attempt": event.attempt,
        "type": event.type,
        "step": event.step,
        "level": event.level,
        "message": event.message,
        "data": event.data,
        "created_at": event.created_at,
    }


def render_log_line(line: LogLine) -> Json:
    """The same object in a list and as the data of a server-sent event."""
    return {
        "id": f"{line.attempt}-{line.line}",
        "object": "job.log_line",
        "attempt": line.attempt,
        "line": line.line,
        "text": line.text,
    }


def render_artifact(artifact: ArtifactView) -> Json:
    """Where it lies in storage stays inside."""
    return {
        "id": artifact.id,
        "object": "artifact",
        "name": artifact.name,
        "path": artifact.path,
        "bytes": artifact.num_bytes,
        "sha256": artifact.sha256,
        "created_at": artifact.created_at,
    }


def render_file(file: FileView) -> Json:
    """OpenAI's shape, and the digest and number of samples beside it."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.num_bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "sha256": file.sha256,
        "num_samples": file.num_samples,
    }


def render_preview(preview: PreviewView) -> Json:
    """What was rendered, and what it was rendered of."""
    error = preview.error
    return {
        "id": preview.id,
        "object": "preview",
        "status": preview.status,
        "config": preview.config,
        "file": preview.file_id,
        "n": preview.num_samples,
        "result": preview.result,
        "error": None if error is None else {"code": error.code, "message": error.message, "param": error.param},
        "created_at": preview.created_at,
        "started_at": preview.started_at,
        "finished_at": preview.finished_at,
    }


def render_worker(worker: WorkerView) -> Json:
    """Without the catalogue, which `/v1/registries` shows for all workers together."""
    return {
        "id": worker.id,
        "object": "worker",
        "host": worker.host,
        "gpus": [_render_gpu(gpu, worker.gpu_readings) for gpu in worker.gpus],
        "slots": worker.slots,
        "status": worker.status,
        "version": worker.version,
        "last_seen_at": worker.last_seen_at,
        "plugin_errors": worker.plugin_errors,
    }


def _render_gpu(gpu: GpuInfo, readings: Sequence[GpuReading]) -> Json:
    reading = next((each for each in readings if each.index == gpu.index), None)
    return {
        "index": gpu.index,
        "name": gpu.name,
        "memory_bytes": gpu.memory_bytes,
        "memory_used_bytes": None if reading is None else reading.memory_used_bytes,
        "utilization": None if reading is None else reading.utilization,
    }


def render_key(key: KeyView) -> Json:
    """Everything but the key itself, which nobody has."""
    return {
        "id": key.id,
        "object": "key",
        "owner": key.owner,
        "name": key.name,
        "scopes": key.scopes,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
        "max_requests_per_minute": key.limits.max_requests_per_minute,
        "max_upload_bytes": key.limits.max_upload_bytes,
        "replaced_by": key.replaced_by,
    }


def render_project(project: ProjectView) -> Json:
    """Null limits are the installation's."""
    return {
        "id": project.id,
        "object": "project",
        "name": project.name,
        "max_queued_jobs": project.max_queued_jobs,
        "max_running_jobs": project.max_running_jobs,
        "created_at": project.created_at,
    }


def render_secret(secret: SecretView) -> Json:
    """Everything but the value."""
    return {
        "id": secret.id,
        "object": "secret",
        "name": secret.name,
        "created_at": secret.created_at,
        "updated_at": secret.updated_at,
    }


def render_webhook(webhook: WebhookView) -> Json:
    """Everything but the secret."""
    return {
        "id": webhook.id,
        "object": "webhook",
        "url": webhook.url,
        "events": webhook.events,
        "description": webhook.description,
        "enabled": webhook.disabled_at is None,
        "disabled_at": webhook.disabled_at,
        "disabled_reason": webhook.disabled_reason,
        "created_at": webhook.created_at,
    }


def render_delivery(delivery: DeliveryView) -> Json:
    """How far a message got, without its body."""
    return {
        "id": delivery.id,
        "object": "webhook.delivery",
        "webhook_id": delivery.webhook_id,
        "type": delivery.type,
        "job_id": delivery.job_id,
        "status": delivery.status,
        "tries": delivery.tries,
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
        "created_at": delivery.created_at,
        "delivered_at": delivery.delivered_at,
        "next_try_at": delivery.next_try_at,
    }


def render_deleted(object_id: str, kind: str) -> Json:
    """What is left of a deleted object."""
    return {"id": object_id, "object": kind, "deleted": True}


def render_error(error: ApiError) -> Json:
    """The error object inside an answer that is itself a success."""
    return {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
        "details": error.details,
    }
