"""What the calls on keys, projects and secrets take and answer, as the OpenAPI document shows it."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from app.api.schemas import Answer, RequestBody, UnixSeconds

KeyScope = Literal["read", "submit", "admin", "jobs"]


class KeyRequest(RequestBody):
    """A new API key."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"owner": "ana", "name": "laptop", "scopes": ["submit"]}]}
    )

    owner: str = Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_.@+-]+$",
        description="Whose jobs and files it sees.",
    )
    name: str = Field(min_length=1, max_length=256, description="For people.")
    scopes: list[KeyScope] = Field(
        default_factory=lambda: list[KeyScope](["submit"]),
        min_length=1,
        description="`read` looks only, `submit` also changes things, `admin` also manages keys and projects and reads "
        "metrics; each implies those before it. `jobs` is an earlier word for `submit`.",
    )
    expires_in_seconds: float | None = Field(
        None, gt=0, le=3_162_240_000, description="Lifetime in seconds; null: until revoked."
    )
    max_requests_per_minute: int | None = Field(
        None, ge=1, le=10_000_000, description="Requests of this key in a minute; null: the installation's limit."
    )
    max_upload_bytes: int | None = Field(
        None, ge=1, le=1 << 50, description="Largest file that it may upload; null: the installation's limit."
    )


class KeyRotation(RequestBody):
    """How a key is replaced."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"overlap_seconds": 3600}]})

    overlap_seconds: float = Field(
        0.0, ge=0, le=2_592_000, description="How long the earlier key goes on working, in seconds; at most 30 days."
    )


class Key(Answer):
    id: str
    object: Literal["key"]
    owner: str
    name: str
    scopes: list[str]
    created_at: UnixSeconds
    expires_at: UnixSeconds | None
    revoked_at: UnixSeconds | None
    last_used_at: UnixSeconds | None
    max_requests_per_minute: int | None
    max_upload_bytes: int | None
    replaced_by: str | None = Field(description="The key that a rotation made in its place.")


class NewKey(Key):
    key: str = Field(description="The key itself; it is shown this once.", examples=["fsk_…"])


_JobLimit = Annotated[int, Field(ge=0, le=1_000_000_000)]


class ProjectLimits(RequestBody):
    """How many jobs of a project may wait and run."""

    max_queued_jobs: _JobLimit | None = Field(
        None, description="Jobs that may wait at a time; null: the installation's limit."
    )
    max_running_jobs: _JobLimit | None = Field(
        None, description="Jobs that may run at a time; null: the installation's limit."
    )


class ProjectRequest(ProjectLimits):
    """A new project."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "speech", "max_running_jobs": 4}]})

    id: str = Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_.@+-]+$",
        description="What keys name as their `owner`; it cannot be changed.",
        examples=["ana"],
    )
    name: str | None = Field(None, min_length=1, max_length=256, description="For people; null: the id.")


class ProjectChange(ProjectLimits):
    """What to change; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"max_running_jobs": 2}]})

    name: str | None = Field(None, min_length=1, max_length=256, description="For people.")


class Project(Answer):
    id: str
    object: Literal["project"]
    name: str
    max_queued_jobs: int | None
    max_running_jobs: int | None
    created_at: UnixSeconds


class SecretRequest(RequestBody):
    """A secret's value."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"value": "hf_…"}]})

    value: str = Field(
        min_length=8,
        max_length=4096,
        description="8 to 4096 printable ASCII characters; it is stored encrypted and never answered.",
        json_schema_extra={"format": "password", "writeOnly": True},
    )


class Secret(Answer):
    id: str
    object: Literal["secret"]
    name: str = Field(description="Jobs use it as `secret:<name>`.")
    created_at: UnixSeconds
    updated_at: UnixSeconds
