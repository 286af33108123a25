"""The SQL on messages to webhooks: listed for their owner, claimed by one sender, written by its fence."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, insert, or_, select, update

from app.db.clock import db_now
from app.db.models import webhook_deliveries, webhooks
from app.ids import is_id
from app.webhooks.views import ClaimedMessage, DeliveryStatus, DeliveryView, WebhookView

_sent = webhook_deliveries.c
# As a subquery the clock is read once, and the index on `next_try_at` can be used.
_now = select(db_now()).scalar_subquery()
_is_due = and_(_sent.next_try_at <= _now, or_(_sent.claimed_until.is_(None), _sent.claimed_until < _now))
_find_due = select(_sent.id).where(_is_due).limit(1)
_read_clock = select(db_now())
_MAX_REMOVED = 1000


def read_clock(connection: Connection) -> float:
    """Unix seconds by the database's clock."""
    return connection.execute(_read_clock).scalar_one()


def insert_delivery(connection: Connection, values: Mapping[str, Any]) -> DeliveryView:
    """Adds a message."""
    statement = insert(webhook_deliveries).values(values).returning(*webhook_deliveries.c)
    return _as_view(connection.execute(statement).one()._mapping)


def list_deliveries(
    connection: Connection, webhook: WebhookView, *, after: str | None, limit: int
) -> list[DeliveryView]:
    """Messages to a webhook, newest first."""
    query = select(*webhook_deliveries.c).where(_sent.webhook_id == webhook.id)
    if after is not None:
        query = query.where(_sent.id < after)
    return [_as_view(row._mapping) for row in connection.execute(query.order_by(_sent.id.desc()).limit(limit))]


def send_again(connection: Connection, webhook: WebhookView, *, delivery_id: str) -> DeliveryView | None:
    """Makes a message due now; one that has arrived or was given up gets all its tries again. None: there is none."""
    if not is_id(delivery_id, "msg"):
        return None
    is_it = and_(_sent.id == delivery_id, _sent.webhook_id == webhook.id)
    ended = update(webhook_deliveries).where(is_it, _sent.next_try_at.is_(None))
    connection.execute(ended.values(tries=0, delivered_at=None))
    due = update(webhook_deliveries).where(is_it).values(next_try_at=db_now())
    row = connection.execute(due.returning(*webhook_deliveries.c)).first()
    return None if row is None else _as_view(row._mapping)


def has_due(connection: Connection) -> bool:
    """True when some message may be sent now."""
    return connection.execute(_find_due).first() is not None


def claim(
    connection: Connection,
    *,
    claim_seconds: float,
    besides_owners: Collection[str],
    besides_webhooks: Collection[str],
) -> RowMapping | None:
    """Takes the message that is due for longest and counts the try; None when there is none, or others have it.

    The row has the message's columns, `owner`, `url`, the encrypted secret, and `now`.
    """
    query = (
        select(_sent.id)
        .join(webhooks, webhooks.c.id == _sent.webhook_id)
        .where(_is_due, webhooks.c.disabled_at.is_(None))
        .order_by(_sent.next_try_at)
        .limit(1)
        .with_for_update(of=webhook_deliveries, skip_locked=True)
    )
    if besides_owners:
        query = query.where(webhooks.c.owner.not_in(sorted(besides_owners)))
    if besides_webhooks:
        query = query.where(webhooks.c.id.not_in(sorted(besides_webhooks)))
    delivery_id = connection.execute(query).scalar()
    if delivery_id is None:
        return None
    taken = {"claimed_until": db_now() + claim_seconds, "tries": _sent.tries + 1}
    connection.execute(update(webhook_deliveries).where(_sent.id == delivery_id).values(taken))
    receiver = (webhooks.c.owner, webhooks.c.url, webhooks.c.key_id, webhooks.c.nonce, webhooks.c.ciphertext)
    message = (_sent.id, _sent.webhook_id, _sent.payload, _sent.tries, _sent.claimed_until)
    read = select(*message, *receiver, db_now().label("now")).join(webhooks, webhooks.c.id == _sent.webhook_id)
    return connection.execute(read.where(_sent.id == delivery_id)).mappings().first()


def lock_receiver(connection: Connection, webhook_id: str) -> bool | None:
    """Locks a message's webhook before the message itself; whether it is enabled, or None when it is gone."""
    query = select(webhooks.c.disabled_at).where(webhooks.c.id == webhook_id).with_for_update(key_share=True)
    row = connection.execute(query).first()
    return None if row is None else row.disabled_at is None


def write_delivered(connection: Connection, message: ClaimedMessage, *, status: int) -> bool:
    """Ends a message that has arrived; False when the claim is no longer this sender's."""
    values = {"delivered_at": db_now(), "next_try_at": None, "last_error": None}
    return _write(connection, message, {**values, "last_status": status})


def write_failed(
    connection: Connection, message: ClaimedMessage, *, status: int | None, error: str, delay_seconds: float | None
) -> bool:
    """Puts a message off, or gives it up (None); False when the claim is no longer this sender's."""
    next_try_at = None if delay_seconds is None else db_now() + delay_seconds
    return _write(connection, message, {"next_try_at": next_try_at, "last_error": error, "last_status": status})


def remove_old(connection: Connection, *, kept_seconds: float) -> int:
    """Forgets up to 1,000 messages that have ended and are older; returns how many."""
    old = select(_sent.id).where(_sent.next_try_at.is_(None), _sent.created_at < _now - kept_seconds)
    statement = delete(webhook_deliveries).where(_sent.id.in_(old.limit(_MAX_REMOVED)))
    return connection.execute(statement).rowcount


def _write(connection: Connection, message: ClaimedMessage, values: Mapping[str, Any]) -> bool:
    statement = update(webhook_deliveries).where(_is_mine(message)).values({**values, "claimed_until": None})
    return connection.execute(statement).rowcount == 1


def _is_mine(message: ClaimedMessage) -> ColumnElement[bool]:
    return and_(_sent.id == message.id, _sent.claimed_until == message.claimed_until)


def _as_view(row: RowMapping) -> DeliveryView:
    status: DeliveryStatus = "failed" if row["next_try_at"] is None else "pending"
    return DeliveryView(
        id=row["id"],
        webhook_id=row["webhook_id"],
        type=row["type"],
        job_id=row["job_id"] or None,
        status="delivered" if row["delivered_at"] is not None else status,
        tries=row["tries"],
        last_status=row["last_status"],
        last_error=row["last_error"],
        created_at=row["created_at"],
        delivered_at=row["delivered_at"],
        next_try_at=row["next_try_at"],
    )
