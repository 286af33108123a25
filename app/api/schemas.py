"""What the API takes and answers, as the OpenAPI document shows it."""

from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from app.states import JobStatus, StepStatus

EXAMPLE_JOB_ID = "job-01jd8m3v5xq2c7r9t4w6y8z0ab"
EXAMPLE_FILE_ID = "file-01jd8m2k4wp1b6q8s3v5x7y9za"
EXAMPLE_PREVIEW_ID = "preview-01jd8m4q2s6x8z0b3d5f7h9k1m"
Item = TypeVar("Item")
StepName = Literal["prepare", "train", "fuse", "quantize"]
MAX_FIELDS = 100
SubmittedConfig = Annotated[dict[Annotated[str, Field(max_length=200)], JsonValue], Field(max_length=500)]
"""Bounded here: for each unknown key the nearest known ones are looked for, which takes a millisecond."""
UnixSeconds = Annotated[float, Field(description="Unix seconds.", examples=[1795456800.25])]


class Answer(BaseModel):
    """Base of answers. They may gain fields later; a client should pass over what it does not know."""

    model_config = ConfigDict(from_attributes=True)


class RequestBody(BaseModel):
    """Base of bodies. A field that nobody knows is an error, and so is a value of another type than the document says:
    the text `"1"` is no number."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_a_flood(cls, value: object) -> object:
        """One error instead of one for each of 60,000 fields, which took seconds to tell."""
        if isinstance(value, dict) and len(value) > MAX_FIELDS:
            raise PydanticCustomError("too_many_fields", "has more than {most} fields", {"most": MAX_FIELDS})
        return value


class Problem(Answer):
    message: str = Field(description="What is wrong and what to do, for people.")
    param: str | None = Field(description="The field that is wrong; null when it is about no single one.")
    code: str = Field(description="A stable word for programs.")


class ErrorObject(Problem):
    type: str = Field(
        description="Family: `invalid_request_error`, `authentication_error`, `permission_error`, `not_found_error`, "
        "`conflict_error`, `rate_limit_error` or `server_error`."
    )
    details: list[Problem] = Field(description="All problems that were found, the first one included.")


class ErrorBody(Answer):
    """Every answer with a status of 400 or above."""

    error: ErrorObject


class Resources(RequestBody):
    gpus: int | None = Field(
        None, ge=0, le=1024, description="GPUs of one host; null: 1 where the installation has a GPU, else 0."
    )


class JobRequest(RequestBody):
    """What to run."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "config": {
                        "model_name_or_path": "local:demo-base",
                        "apply_lora": True,
                        "lora_rank": 8,
                        "max_steps": 50,
                        "per_device_train_batch_size": 4,
                        "learning_rate": 0.001,
                    },
                    "steps": ["prepare", "train", "fuse"],
                    "training_file": EXAMPLE_FILE_ID,
                    "name": "first try",
                }
            ]
        },
    )

    config: SubmittedConfig = Field(
        description="The Config: only the keys that differ from their defaults (`GET /v1/config/schema` lists them). "
        "`huggingface_hub_token` and `wandb_api_key` are write-only, or name one of your secrets: `secret:<name>`."
    )
    steps: list[StepName] | None = Field(
        None,
        max_length=16,
        description="What to run, in order; null: prepare, train, and fuse if the config trains a LoRA and says "
        "`fuse_after_training`.",
    )
    training_file: str | None = Field(None, max_length=64, description="An uploaded file (`file-…`) with the samples.")
    validation_file: str | None = Field(None, max_length=64, description="An uploaded file; never trained on.")
    input_job: str | None = Field(
        None, max_length=64, description="A finished job (`job-…`) whose data, adapter or model this one goes on from."
    )
    resources: Resources = Field(default_factory=Resources, description="What the job runs on.")
    priority: int = Field(0, ge=-100, le=100, description="Higher goes first.")
    max_attempts: int = Field(
        3, ge=1, le=100, description="After how many lost or retryable attempts the job counts as failed."
    )
    max_runtime_seconds: float | None = Field(
        None, gt=0, description="Longest the job may run, in seconds, all its attempts together; null: no bound."
    )
    keep_days: float | None = Field(
        None,
        ge=0,
        le=36_500,
        description="Days from the job's end to its removal with all that it made; null: as the installation says.",
    )
    name: str | None = Field(None, max_length=256, description="For people.")
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] = Field(
        default_factory=dict, max_length=16, description="Up to 16 strings of yours; kept and answered as they are."
    )


class JobError(Answer):
    code: str = Field(description="A stable word for programs, such as `invalid_data`.", examples=["invalid_data"])
    message: str = Field(description="What happened and what to do.")
    param: str | None = Field(None, description="The Config field to change, where one is to blame.")
    step: str | None = Field(None, description="The step that failed.")


class JobStep(Answer):
    name: StepName
    status: StepStatus
    started_at: UnixSeconds | None = None
    finished_at: UnixSeconds | None = None
    error: JobError | None = None
    facts: dict[str, JsonValue] | None = Field(
        None,
        description="What the step found out and made: losses, counts, sizes, revisions of repositories; null before.",
    )


class Progress(Answer):
    """The newest figures of the running step; null where the step has not said."""

    global_step: int | None = Field(None, description="Optimizer steps done.")
    total_steps: int | None = Field(None, description="Optimizer steps that training will take.")
    epoch: float | None = Field(None, description="Passes over the data done.")
    loss: float | None = Field(None, description="Training loss last reported.")
    tokens_per_second: float | None = Field(None, description="Throughput.")
    eta_seconds: float | None = Field(None, description="Estimated seconds left of the step.")


class JobResources(Answer):
    gpus: int | None = Field(None, description="GPUs of one host; null until the installation decides.")


class Job(Answer):
    id: str = Field(examples=[EXAMPLE_JOB_ID])
    object: Literal["job"]
    status: JobStatus
    step: str | None = Field(description="The step that runs; null while none does.")
    steps: list[JobStep]
    progress: Progress
    config: dict[str, JsonValue] = Field(
        description="The whole Config with its defaults, secrets as null; it can be posted again as it is."
    )
    resources: JobResources
    priority: int
    attempt: int = Field(description="How often a worker has taken the job up.")
    failures: int = Field(description="Attempts lost for reasons that may go away; bounded by `max_attempts`.")
    error: JobError | None = Field(description="Why the job failed.")
    created_at: UnixSeconds
    started_at: UnixSeconds | None
    finished_at: UnixSeconds | None
    stop_requested: Literal["cancel", "pause"] | None = Field(
        None, description="What a running job was asked for and has not obeyed yet."
    )
    not_before: UnixSeconds | None = Field(
        None, description="After a failure that may go away: when the next attempt may begin."
    )
    keep_days: float | None = Field(
        None, description="Days from its end to its removal; null: as the installation says."
    )
    name: str | None
    metadata: dict[str, str]


class PreviewRequest(RequestBody):
    """What to render."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "config": {"model_name_or_path": "local:demo-base", "max_length": 512},
                    "file": EXAMPLE_FILE_ID,
                    "n": 3,
                }
            ]
        },
    )

    config: SubmittedConfig = Field(description="The Config, as a job's; its secrets are write-only here too.")
    file: str = Field(max_length=64, description="An uploaded file (`file-…`) with the samples.")
    n: int = Field(3, ge=1, le=100, description="How many of the first rows to show token by token.")


class PreviewToken(Answer):
    id: int = Field(description="As the model gets it.")
    text: str = Field(description="Its part of the sample's text; empty within a character of several tokens.")
    is_target: bool = Field(description="Whether it is learned, given the tokens before it: the loss mask.")


class PreviewSample(Answer):
    row: int = Field(description="The line of the file, from 1.")
    text: str
    tokens: list[PreviewToken]
    num_tokens: int
    num_target_tokens: int
    is_truncated: bool = Field(description="The row is longer than `max_length`: the model does not get all of it.")
    is_shortened: bool = Field(description="The list of tokens is cut for the preview alone.")


class PreviewRowError(Answer):
    row: int = Field(description="The line of the file, from 1.")
    message: str


class PreviewResult(Answer):
    dataset_key: str = Field(description="Which data set reads the rows; chosen by the first row if not given.")
    collator_key: str
    num_rows: int
    num_rows_counted: int = Field(
        description="Rows that the counts below are of: fewer than `num_rows` of a file too large for a preview."
    )
    num_tokens: int
    num_target_tokens: int = Field(description="Tokens that are learned.")
    num_truncated_rows: int
    num_rows_without_target: int = Field(description="Rows of which nothing is learned.")
    longest_row_tokens: int = Field(description="Before cutting to `max_length`.")
    num_rows_without_prefix_end: int
    num_errors: int = Field(description="Rows that cannot be trained on.")
    errors: list[PreviewRowError] = Field(description="The first ten of them.")
    samples: list[PreviewSample]


class PreviewFailure(Answer):
    code: str = Field(description="A stable word for programs.")
    message: str = Field(description="What happened and what to do.")
    param: str | None = Field(description="The field to change, where one is to blame.")


class Preview(Answer):
    id: str = Field(examples=[EXAMPLE_PREVIEW_ID])
    object: Literal["preview"]
    status: Literal["queued", "running", "succeeded", "failed"]
    config: dict[str, JsonValue] = Field(description="The whole Config with its defaults, secrets as null.")
    file: str
    n: int
    result: PreviewResult | None = Field(description="What was rendered; null before, and of a preview that failed.")
    error: PreviewFailure | None = Field(description="Why it failed.")
    created_at: UnixSeconds
    started_at: UnixSeconds | None
    finished_at: UnixSeconds | None


class DeletedObject(Answer):
    id: str
    object: Literal["job", "file", "key", "secret", "webhook"]
    deleted: Literal[True]


class Validation(Answer):
    object: Literal["job.validation"]
    valid: bool = Field(description="True if the same body would be accepted now.")
    config: dict[str, JsonValue] | None = Field(description="The whole Config with its defaults; null if not valid.")
    steps: list[str] = Field(description="The steps that would run.")
    warnings: list[str] = Field(description="What is allowed but probably not meant.")
    error: ErrorObject | None = Field(description="Every problem; null when valid.")


class Event(Answer):
    id: str = Field(examples=["evt-17"])
    object: Literal["event"]
    job_id: str = Field(examples=[EXAMPLE_JOB_ID])
    seq: int = Field(description="Number within the job, from 1, without holes.")
    attempt: int = Field(description="The attempt that said so; 0 outside of any.")
    type: str = Field(examples=["step.started"])
    step: str | None
    level: Literal["debug", "info", "warning", "error"]
    message: str
    data: dict[str, JsonValue]
    created_at: UnixSeconds


class LogLine(Answer):
    id: str = Field(description="`<attempt>-<line>`.", examples=["1-42"])
    object: Literal["job.log_line"]
    attempt: int
    line: int = Field(description="Number within the attempt, from 1.")
    text: str


class Artifact(Answer):
    id: str
    object: Literal["artifact"]
    name: str = Field(description="Its folder: `data`, `adapter`, `model`, `fused` or `quantized`.")
    path: str = Field(examples=["fused/model.safetensors"])
    bytes: int
    sha256: str
    created_at: UnixSeconds


class File(Answer):
    id: str = Field(examples=[EXAMPLE_FILE_ID])
    object: Literal["file"]
    bytes: int
    created_at: UnixSeconds
    filename: str
    purpose: str
    sha256: str
    num_samples: int = Field(description="How many JSON objects (lines) it holds.")


class Gpu(Answer):
    index: int
    name: str
    memory_bytes: int | None
    memory_used_bytes: int | None = Field(description="At its worker's last sign of life; null when not known.")
    utilization: float | None = Field(description="Share of the time in which it was at work then, 0 to 1; or null.")


class PluginError(Answer):
    plugin: str = Field(description="Its entry point's name, or `module:function`.")
    message: str = Field(description="What it raised.")


class Worker(Answer):
    id: str
    object: Literal["worker"]
    host: str
    gpus: list[Gpu]
    slots: int = Field(description="How many jobs it runs at once.")
    status: Literal["online", "offline"]
    version: str
    last_seen_at: UnixSeconds
    plugin_errors: list[PluginError] = Field(
        description="Plugins that it could not load; the keys that they would add cannot be used on it."
    )


class Registries(Answer):
    object: Literal["registries"]
    data: dict[str, list[str]] = Field(
        description="Keys by registry: what the workers of the last 24 hours announced, and what is built in."
    )


class ListOf(Answer, Generic[Item]):
    object: Literal["list"]
    data: list[Item]
    has_more: bool = Field(description="True if more follow: ask again with `after` set to the last id.")


class Readiness(Answer):
    status: Literal["ready", "degraded", "unavailable"]
    checks: dict[str, str] = Field(description="`ok` or what is wrong, by part.")


class Liveness(Answer):
    status: Literal["alive"]


JsonSchema = dict[str, Any]
