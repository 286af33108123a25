"""Examples that the OpenAPI document shows; a test holds them against the schemas."""

from typing import Any

from app.api.schemas import EXAMPLE_FILE_ID, EXAMPLE_JOB_ID, EXAMPLE_PREVIEW_ID

_CREATED_AT = 1795456800.25
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

JOB: dict[str, Any] = {
    "id": EXAMPLE_JOB_ID,
    "object": "job",
    "status": "running",
    "step": "train",
    "steps": [
        {
            "name": "prepare",
            "status": "succeeded",
            "started_at": 1795456801.0,
            "finished_at": 1795456803.5,
            "error": None,
            "facts": {"num_train_rows": 300},
        },
        {
            "name": "train",
            "status": "running",
            "started_at": 1795456803.6,
            "finished_at": None,
            "error": None,
            "facts": None,
        },
    ],
    "progress": {
        "global_step": 20,
        "total_steps": 50,
        "epoch": 0.4,
        "loss": 2.31,
        "tokens_per_second": 5120.0,
        "eta_seconds": 18.0,
    },
    "config": {"model_name_or_path": "local:demo-base", "apply_lora": True, "max_steps": 50},
    "resources": {"gpus": 0},
    "priority": 0,
    "attempt": 1,
    "failures": 0,
    "error": None,
    "created_at": _CREATED_AT,
    "started_at": 1795456800.9,
    "finished_at": None,
    "stop_requested": None,
    "not_before": None,
    "keep_days": None,
    "name": "first try",
    "metadata": {},
}
EVENT: dict[str, Any] = {
    "id": "evt-7",
    "object": "event",
    "job_id": EXAMPLE_JOB_ID,
    "seq": 7,
    "attempt": 1,
    "type": "metrics",
    "step": "train",
    "level": "info",
    "message": "",
    "data": {"global_step": 20, "loss": 2.31, "learning_rate": 0.001},
    "created_at": _CREATED_AT,
}
LOG_LINE: dict[str, Any] = {
    "id": "1-42",
    "object": "job.log_line",
    "attempt": 1,
    "line": 42,
    "text": "Saved the adapter.",
}
ARTIFACT: dict[str, Any] = {
    "id": "art-01jd8m7k1vq3c5r7t9w2y4z6ab",
    "object": "artifact",
    "name": "fused",
    "path": "fused/model.safetensors",
    "bytes": 12582912,
    "sha256": _SHA256,
    "created_at": _CREATED_AT,
}
FILE: dict[str, Any] = {
    "id": EXAMPLE_FILE_ID,
    "object": "file",
    "bytes": 20480,
    "created_at": _CREATED_AT,
    "filename": "train.jsonl",
    "purpose": "fine-tune",
    "sha256": _SHA256,
    "num_samples": 300,
}
QUEUED_PREVIEW: dict[str, Any] = {
    "id": EXAMPLE_PREVIEW_ID,
    "object": "preview",
    "status": "queued",
    "config": {"model_name_or_path": "local:demo-base", "max_length": 512, "dataset_key": "chat"},
    "file": EXAMPLE_FILE_ID,
    "n": 1,
    "result": None,
    "error": None,
    "created_at": _CREATED_AT,
    "started_at": None,
    "finished_at": None,
}
PREVIEW: dict[str, Any] = {
    **QUEUED_PREVIEW,
    "status": "succeeded",
    "result": {
        "dataset_key": "chat",
        "collator_key": "chat",
        "num_rows": 300,
        "num_rows_counted": 300,
        "num_tokens": 5120,
        "num_target_tokens": 2300,
        "num_truncated_rows": 2,
        "num_rows_without_target": 0,
        "longest_row_tokens": 580,
        "num_rows_without_prefix_end": 0,
        "num_errors": 1,
        "errors": [{"row": 17, "message": "messages: the last one is not the assistant's"}],
        "samples": [
            {
                "row": 1,
                "text": "user: Hi\nassistant: Hello",
                "tokens": [
                    {"id": 12, "text": "user: Hi\n", "is_target": False},
                    {"id": 40, "text": "assistant:", "is_target": False},
                    {"id": 77, "text": " Hello", "is_target": True},
                ],
                "num_tokens": 3,
                "num_target_tokens": 1,
                "is_truncated": False,
                "is_shortened": False,
            }
        ],
    },
    "started_at": 1795456800.5,
    "finished_at": 1795456804.0,
}
WORKER: dict[str, Any] = {
    "id": "wrk-01jd8m1a3c5e7g9j2m4p6r8tvw",
    "object": "worker",
    "host": "gpu-1",
    "gpus": [
        {
            "index": 0,
            "name": "NVIDIA H200",
            "memory_bytes": 150754820096,
            "memory_used_bytes": 96636764160,
            "utilization": 0.97,
        }
    ],
    "slots": 1,
    "status": "online",
    "version": "0.1.0",
    "last_seen_at": _CREATED_AT,
    "plugin_errors": [{"plugin": "my_project.registry:register", "message": "ImportError: no module named 'trl'"}],
}
VALIDATION: dict[str, Any] = {
    "object": "job.validation",
    "valid": True,
    "config": {"model_name_or_path": "local:demo-base", "apply_lora": True},
    "steps": ["prepare", "train", "fuse"],
    "warnings": [],
    "error": None,
}
REGISTRIES: dict[str, Any] = {
    "object": "registries",
    "data": {"datasets": ["chat", "default", "general", "soda"], "trainers": ["default", "lm"]},
}
CONFIG_SCHEMA: dict[str, Any] = {
    "title": "Config",
    "type": "object",
    "properties": {"lora_rank": {"type": "integer", "default": 8, "description": "Rank of the LoRA matrices."}},
}
KEY: dict[str, Any] = {
    "id": "key-01jd8m0z9y8x7w6v5t4s3r2q1p",
    "object": "key",
    "owner": "ana",
    "name": "laptop",
    "scopes": ["submit"],
    "created_at": _CREATED_AT,
    "expires_at": None,
    "revoked_at": None,
    "last_used_at": None,
    "max_requests_per_minute": 120,
    "max_upload_bytes": None,
    "replaced_by": None,
}
NEW_KEY: dict[str, Any] = {**KEY, "key": "fsk_…"}
PROJECT: dict[str, Any] = {
    "id": "ana",
    "object": "project",
    "name": "Ana's team",
    "max_queued_jobs": 500,
    "max_running_jobs": None,
    "created_at": _CREATED_AT,
}
SECRET: dict[str, Any] = {
    "id": "sec-01jd8m5r7t9v1x3z5b7d9f1h3j",
    "object": "secret",
    "name": "hub",
    "created_at": _CREATED_AT,
    "updated_at": _CREATED_AT,
}

WEBHOOK: dict[str, Any] = {
    "id": "webhook-01jd8m5r3t7v9x1z3b5d7f9h2k",
    "object": "webhook",
    "url": "https://hooks.example.com/finesmith",
    "events": ["job.paused", "job.succeeded", "job.failed", "job.cancelled"],
    "description": "the team's channel",
    "enabled": True,
    "disabled_at": None,
    "disabled_reason": None,
    "created_at": _CREATED_AT,
}
NEW_WEBHOOK: dict[str, Any] = {**WEBHOOK, "secret": "whsec_…"}
DELIVERY: dict[str, Any] = {
    "id": "msg-01jd8m6s4u8w0y2a4c6e8g0j2m",
    "object": "webhook.delivery",
    "webhook_id": WEBHOOK["id"],
    "type": "job.succeeded",
    "job_id": EXAMPLE_JOB_ID,
    "status": "pending",
    "tries": 1,
    "last_status": 502,
    "last_error": "the receiver answered 502",
    "created_at": _CREATED_AT,
    "delivered_at": None,
    "next_try_at": 1795456805.5,
}


def list_of(item: dict[str, Any]) -> dict[str, Any]:
    """A list with one item and no more to come."""
    return {"object": "list", "data": [item], "has_more": False}


def deleted(example: dict[str, Any]) -> dict[str, Any]:
    """What a DELETE answers."""
    return {"id": example["id"], "object": example["object"], "deleted": True}
