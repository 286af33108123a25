"""What the webhook service answers, and what a sender works on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from app.jobs.outbox import JOB_EVENT_TYPES
from app.webhooks.signing import SigningSecrets

DeliveryStatus = Literal["pending", "delivered", "failed"]
TEST_TYPE = "webhook.test"
SECRET_FIELD = "webhook"
"""What a webhook's secret is bound to when it is encrypted, beside the webhook's id."""
EVENT_TYPES = JOB_EVENT_TYPES
DEFAULT_EVENT_TYPES = ("job.paused", "job.succeeded", "job.failed", "job.cancelled")


@dataclass(frozen=True, slots=True)
class WebhookView:
    """A webhook without its secret. Times are unix seconds; `disabled_at` None: messages are sent."""

    id: str
    url: str
    events: Sequence[str]
    description: str | None
    created_at: float
    disabled_at: float | None
    disabled_reason: str | None


@dataclass(frozen=True, slots=True)
class WebhookChange:
    """What to change of a webhook; only the fields that `names` names count."""

    names: frozenset[str]
    url: str = ""
    events: Sequence[str] = ()
    description: str | None = None
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """One message and how far it got. Times are unix seconds; `job_id` None: a test."""

    id: str
    webhook_id: str
    type: str
    job_id: str | None
    status: DeliveryStatus
    tries: int
    last_status: int | None
    last_error: str | None
    created_at: float
    delivered_at: float | None
    next_try_at: float | None


@dataclass(frozen=True, slots=True)
class ClaimedMessage:
    """A message that this sender alone has until `claimed_until`, which is the fence of what it writes."""

    id: str
    webhook_id: str
    owner: str
    url: str
    payload: str
    tries: int
    claimed_until: float
    now: float
    secrets: SigningSecrets | None = field(repr=False)
    """None when they cannot be decrypted."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a receiver answered; of the body nothing is kept."""

    status: int
    headers: Mapping[str, str]

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300
