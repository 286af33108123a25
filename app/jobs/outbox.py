"""The SQL on the outbox: messages to webhooks, written in the transaction of the events that they tell of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import JsonValue
from pydantic_core import to_json
from sqlalchemy import Connection, bindparam, insert, select

from app.db.models import webhook_deliveries, webhooks
from app.ids import new_id
from app.stored_event import StoredEvent

JOB_EVENT_TYPES = (
    *("job.queued", "job.running", "job.requeued", "job.paused", "job.resumed"),
    *("job.succeeded", "job.failed", "job.cancelled"),
    "step.finished",
)
"""What a webhook can be told of."""
MAX_EVENT_DATA_BYTES = 16 << 10
"""An event's data beyond it are left out of the message: `GET /v1/jobs/{id}/events` has them."""

_TOLD = frozenset(JOB_EVENT_TYPES)
# With the lock a webhook that is being deleted is waited for, instead of breaking the job's transaction.
_find_webhooks = (
    select(webhooks.c.id, webhooks.c.events)
    .where(webhooks.c.owner == bindparam("job_owner"), webhooks.c.disabled_at.is_(None))
    .with_for_update(read=True, key_share=True)
)
_insert_delivery = insert(webhook_deliveries)


@dataclass(frozen=True, slots=True)
class ToldJob:
    """What a message says of a job besides the event; neither its config nor a secret."""

    id: str
    owner: str
    status: str
    name: str | None
    metadata: Mapping[str, str]
    error: Mapping[str, str | None] | None


def insert_messages(connection: Connection, job: ToldJob, events: Sequence[StoredEvent], *, now: float) -> None:
    """Adds a message to each webhook of the job's owner for each event that it wants, due `now` (database's clock).

    An owner without webhooks costs one select by an index, other events (progress, metrics) nothing.
    """
    told = [event for event in events if event.type in _TOLD]
    if not told:
        return
    receivers = connection.execute(_find_webhooks, {"job_owner": job.owner}).all()
    rows = []
    for event in told if receivers else ():
        payload = _build_payload(job, event)
        rows += [
            build_delivery(receiver.id, type_=event.type, payload=payload, job_id=job.id, now=now)
            for receiver in receivers
            if event.type in receiver.events
        ]
    if rows:
        connection.execute(_insert_delivery, rows)


def build_delivery(webhook_id: str, *, type_: str, payload: str, job_id: str, now: float) -> dict[str, Any]:
    """The row of a message that is due; `job_id` is empty for a message of no job."""
    return {
        "id": new_id("msg"),
        "webhook_id": webhook_id,
        "job_id": job_id,
        "type": type_,
        "payload": payload,
        "tries": 0,
        "next_try_at": now,
        "created_at": now,
    }


def build_payload(type_: str, *, at: float, data: Mapping[str, object]) -> str:
    """The body of a message: `{type, timestamp, data}`; `at` is in unix seconds."""
    timestamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return to_json({"type": type_, "timestamp": timestamp, "data": data}, inf_nan_mode="null").decode()


def _build_payload(job: ToldJob, event: StoredEvent) -> str:
    data: Mapping[str, JsonValue] | None = event.data
    if len(to_json(data)) > MAX_EVENT_DATA_BYTES:
        data = None
    told_event = {
        "id": f"evt-{event.seq}",
        "seq": event.seq,
        "attempt": event.attempt,
        "type": event.type,
        "step": event.step,
        "level": event.level,
        "message": event.message,
        "data": data,
        "created_at": event.created_at,
    }
    told_job = {
        "id": job.id,
        "object": "job",
        "status": job.status,
        "event": told_event,
        "name": job.name,
        "metadata": job.metadata,
        "error": job.error,
    }
    return build_payload(event.type, at=event.created_at, data=told_job)
