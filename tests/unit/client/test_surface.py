"""What users may rely on: names, signatures and fields. A change here is one for the changelog."""

import dataclasses
import inspect
import subprocess
import sys

import finesmith
from finesmith import Client

NAMES = [
    "APIConnectionError", "APIError", "APIProblem", "APIStatusError", "APITimeoutError", "Artifact",
    "AuthenticationError", "BadRequestError", "ChecksumMismatch", "Client", "ConfigurationError", "ConflictError",
    "ErrorDetail", "Event", "File", "FinesmithError", "Gpu", "Health", "IntegrityError", "InternalServerError", "Job",
    "JobCancelled", "JobErrorInfo", "JobFailed", "JobOptions", "JobOutcomeError", "JobProgress", "JobStatus",
    "JobStep", "LogLine", "NotFoundError", "Page", "PayloadTooLargeError", "PermissionDeniedError", "PluginError",
    "Preview", "PreviewErrorInfo", "PreviewResult", "PreviewRowError", "PreviewSample", "PreviewToken",
    "RateLimitError", "Registries", "Resources", "RetryPolicy", "UnexpectedResponseError", "UnprocessableEntityError",
    "UnsafePathError", "Validation", "WaitTimeout", "Worker", "__version__",
]  # fmt: skip

CALLS = {
    "client": [
        "__init__(base_url=None, *, api_key=None, timeout=60.0, retry=None)",
        "close()",
        "config_schema(config_key='base')",
        "health()",
    ],
    "client.files": [
        "delete(file_id)",
        "download(file_id, path)",
        "get(file_id)",
        "list(*, limit=None, after=None)",
        "upload(path, *, purpose='fine-tune')",
    ],
    "client.jobs": [
        "artifacts(job_id)",
        "cancel(job_id, *, save_checkpoint=True)",
        "create(*, config, idempotency_key=None, **options)",
        "delete(job_id)",
        "download(job_id, path, *, prefix=None)",
        "events(job_id, *, after=None)",
        "follow_events(job_id, *, after=None)",
        "follow_logs(job_id, *, after=None)",
        "get(job_id)",
        "list(*, limit=None, after=None, status=None)",
        "logs(job_id, *, after=None)",
        "metrics(job_id, *, after=None)",
        "pause(job_id)",
        "resume(job_id)",
        "retry(job_id)",
        "validate(*, config, **options)",
        "wait(job, *, timeout=86400.0, progress=True)",
    ],
    "client.previews": ["create(*, config, file, n=3)", "get(preview_id, *, wait=None)"],
    "client.registries": ["get()"],
    "client.workers": ["list()"],
    "job": [
        "artifacts()",
        "cancel(*, save_checkpoint=True)",
        "delete()",
        "download(path, *, prefix=None)",
        "events(*, after=None, follow=False)",
        "logs(*, after=None, follow=False)",
        "metrics(*, after=None)",
        "pause()",
        "refresh()",
        "resume()",
        "retry()",
        "wait(*, timeout=86400.0, progress=True)",
    ],
    "page": ["next_page()"],
}

OPTIONS = [
    "steps", "training_file", "validation_file", "input_job", "resources", "priority", "max_attempts",
    "max_runtime_seconds", "keep_days", "name", "metadata",
]  # fmt: skip

FIELDS = {
    "APIProblem": "status_code message type param code details request_id retry_after_seconds",
    "Artifact": "path bytes sha256 id name created_at extra",
    "ErrorDetail": "message param code",
    "Event": "id type seq job_id attempt step level message data created_at extra",
    "File": "id filename bytes purpose created_at sha256 num_samples extra",
    "Gpu": "index name memory_bytes",
    "Health": "status checks extra",
    "Job": "id status step steps progress config resources priority attempt failures error created_at started_at"
    " finished_at stop_requested not_before keep_days name metadata extra",
    "JobErrorInfo": "code message param step",
    "JobProgress": "global_step total_steps epoch loss tokens_per_second eta_seconds",
    "JobStep": "name status started_at finished_at error facts",
    "LogLine": "id text attempt line extra",
    "Page": "data has_more",
    "PluginError": "plugin message",
    "Preview": "id status config file n result error created_at started_at finished_at extra",
    "PreviewErrorInfo": "code message param",
    "PreviewResult": "dataset_key collator_key num_rows num_rows_counted num_tokens num_target_tokens"
    " num_truncated_rows num_rows_without_target longest_row_tokens num_rows_without_prefix_end num_errors"
    " errors samples extra",
    "PreviewRowError": "row message",
    "PreviewSample": "row text tokens num_tokens num_target_tokens is_truncated is_shortened",
    "PreviewToken": "id text is_target",
    "Registries": "datasets collators trainers experiments quantizers configs extra",
    "Resources": "gpus",
    "RetryPolicy": "max_retries initial_delay_seconds max_delay_seconds max_retry_after_seconds max_outage_seconds",
    "Validation": "valid config steps warnings problems",
    "Worker": "id host gpus slots status version last_seen_at plugin_errors extra",
}


def calls_of(kind: type) -> list[str]:
    found = []
    for name, item in inspect.getmembers(kind, inspect.isfunction):
        own = name == "__init__" and kind is Client
        if own or not name.startswith("_"):
            signature = inspect.signature(item)
            parameters = [
                parameter.replace(annotation=inspect.Parameter.empty)
                for parameter in signature.parameters.values()
                if parameter.name != "self"
            ]
            found.append(f"{name}{inspect.Signature(parameters)}")
    return found


def test_the_exported_names() -> None:
    assert sorted(finesmith.__all__) == NAMES
    assert all(hasattr(finesmith, name) for name in NAMES)


def test_the_calls_and_their_arguments() -> None:
    with Client("http://h", api_key="k") as client:
        kinds = {
            "client": Client,
            "client.files": type(client.files),
            "client.jobs": type(client.jobs),
            "client.previews": type(client.previews),
            "client.registries": type(client.registries),
            "client.workers": type(client.workers),
            "job": finesmith.Job,
            "page": finesmith.Page,
        }
    assert {place: calls_of(kind) for place, kind in kinds.items()} == CALLS
    assert list(finesmith.JobOptions.__annotations__) == OPTIONS


def test_the_fields() -> None:
    models = {
        name: item for name in NAMES if dataclasses.is_dataclass(item := getattr(finesmith, name))
    }  # fmt: skip
    fields = {
        name: " ".join(field.name for field in dataclasses.fields(model) if not field.name.startswith("_"))
        for name, model in models.items()
    }
    assert fields == FIELDS
    assert all(model.__dataclass_params__.frozen for model in models.values())


def test_every_field_says_what_it_means() -> None:
    for name in [*FIELDS, "JobOptions"]:
        model = getattr(finesmith, name)
        source = inspect.getsource(model)
        for field in model.__annotations__:
            if not field.startswith("_"):
                line = next(
                    number for number, text in enumerate(source.splitlines()) if text.startswith(f"    {field}: ")
                )
                assert source.splitlines()[line + 1].strip().startswith('"""'), f"{name}.{field}"


def test_importing_it_brings_nothing_of_the_server_and_nothing_heavy() -> None:
    code = (
        "import sys, finesmith\n"
        "heavy = {'app', 'worker', 'trainer_core', 'torch', 'numpy', 'pydantic', 'rich', 'fastapi'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & heavy))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"
