"""What the calls on webhooks take and answer."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from app.api.schemas import EXAMPLE_JOB_ID, Answer, RequestBody, UnixSeconds

WebhookEvent = Literal[
    "job.queued",
    "job.running",
    "job.requeued",
    "job.paused",
    "job.resumed",
    "job.succeeded",
    "job.failed",
    "job.cancelled",
    "step.finished",
]
_URL = "Where messages are posted: https, a public host, no user, no fragment; the installation may allow other hosts."
_EVENTS = "What to tell of."
_DESCRIPTION = "For people."
Url = Annotated[str, Field(min_length=1, max_length=2048, description=_URL)]
Events = Annotated[list[WebhookEvent], Field(min_length=1, max_length=32, description=_EVENTS)]
Description = Annotated[str, Field(max_length=512)]


class WebhookRequest(RequestBody):
    """A new receiver."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"url": "https://hooks.example.com/finesmith", "events": ["job.succeeded", "job.failed"]}]
        },
    )

    url: Url
    events: Events | None = Field(
        None, description="What to tell of; null: that a job is paused, has succeeded, failed or was cancelled."
    )
    description: Description | None = Field(None, description=_DESCRIPTION)


class WebhookPatch(RequestBody):
    """What to change; a field that is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"enabled": True}]})

    url: Url = Field("", validate_default=False)
    events: Events = Field(default_factory=list, validate_default=False)
    description: Description | None = Field(None, description=_DESCRIPTION)
    enabled: bool = Field(True, description="False: nothing is sent, and what waits to be sent is given up.")


class Webhook(Answer):
    id: str = Field(examples=["webhook-01jd8m5r3t7v9x1z3b5d7f9h2k"])
    object: Literal["webhook"]
    url: str = Field(description=_URL)
    events: list[WebhookEvent] = Field(description=_EVENTS)
    description: str | None = Field(description=_DESCRIPTION)
    enabled: bool = Field(description="Whether messages are sent.")
    disabled_at: UnixSeconds | None
    disabled_reason: str | None = Field(description="Why nothing is sent; null while it is enabled.")
    created_at: UnixSeconds


class NewWebhook(Webhook):
    secret: str = Field(
        description="What messages are signed with; it is shown this once. `whsec_` and 32 bytes in base64.",
        examples=["whsec_…"],
    )


class WebhookDelivery(Answer):
    """A message, and how far it got."""

    id: str = Field(description="The header `webhook-id`, the same in every try.")
    object: Literal["webhook.delivery"]
    webhook_id: str
    type: str = Field(description="The event it tells of, or `webhook.test`.", examples=["job.succeeded"])
    job_id: str | None = Field(description="The job it tells of; null for a test.", examples=[EXAMPLE_JOB_ID])
    status: Literal["pending", "delivered", "failed"] = Field(description="`failed`: it was given up.")
    tries: int = Field(description="How often it was sent.")
    last_status: int | None = Field(description="HTTP status of the newest answer; null: there was none.")
    last_error: str | None = Field(description="Why the newest try failed.")
    created_at: UnixSeconds
    delivered_at: UnixSeconds | None
    next_try_at: UnixSeconds | None = Field(description="When it is sent again; null: it is not.")
