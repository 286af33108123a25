"""The SQL on webhooks, always of one owner."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from app.db.clock import db_now
from app.db.models import marks, webhook_deliveries, webhooks
from app.ids import is_id
from app.secrets.cipher import SealedSecret
from app.webhooks.views import SECRET_FIELD, WebhookView

_columns = tuple(
    webhooks.c[name] for name in ("id", "url", "events", "description", "created_at", "disabled_at", "disabled_reason")
)
_sealed_columns = (webhooks.c.key_id, webhooks.c.nonce, webhooks.c.ciphertext)


def count_webhooks(connection: Connection, *, owner: str) -> int:
    """How many the owner has; on PostgreSQL two that count at once do so one after the other."""
    all_of_owner = select(webhooks.c.id).where(webhooks.c.owner == owner).order_by(webhooks.c.id)
    connection.execute(all_of_owner.with_for_update(key_share=True))
    query = select(func.count()).select_from(webhooks).where(webhooks.c.owner == owner)
    return connection.execute(query).scalar_one()


def insert_webhook(connection: Connection, values: Mapping[str, Any]) -> WebhookView:
    """Adds a webhook, made now."""
    statement = insert(webhooks).values(**values, created_at=db_now()).returning(*_columns)
    return _as_view(connection.execute(statement).one()._mapping)


def list_webhooks(connection: Connection, *, owner: str, after: str | None, limit: int) -> list[WebhookView]:
    """The owner's, newest first, beginning with the next older than `after`."""
    query = select(*_columns).where(webhooks.c.owner == owner)
    if after is not None:
        query = query.where(webhooks.c.id < after)
    rows = connection.execute(query.order_by(webhooks.c.id.desc()).limit(limit))
    return [_as_view(row._mapping) for row in rows]


def find_webhook(connection: Connection, webhook_id: str, *, owner: str, is_locked: bool = False) -> WebhookView | None:
    """The owner's webhook; locked until the transaction ends, it is neither changed nor deleted by others."""
    if not is_id(webhook_id, "webhook"):
        return None
    query = select(*_columns).where(webhooks.c.id == webhook_id, webhooks.c.owner == owner)
    row = connection.execute(query.with_for_update(key_share=True) if is_locked else query).first()
    return None if row is None else _as_view(row._mapping)


def find_sealed(connection: Connection, webhook: WebhookView) -> tuple[SealedSecret, float]:
    """The encrypted secret of a webhook that is there, and the time by the database's clock."""
    row = connection.execute(select(*_sealed_columns, db_now().label("now")).where(webhooks.c.id == webhook.id)).one()
    return SealedSecret(SECRET_FIELD, key_id=row.key_id, nonce=row.nonce, ciphertext=row.ciphertext), row.now


def update_webhook(connection: Connection, webhook: WebhookView, values: Mapping[str, Any]) -> None:
    """Changes columns of a webhook that the caller has locked."""
    connection.execute(update(webhooks).where(webhooks.c.id == webhook.id).values(values))


def enable(connection: Connection, webhook: WebhookView) -> None:
    """Messages are sent from now on, and the webhook has five days again to fail in."""
    update_webhook(connection, webhook, {"disabled_at": None, "disabled_reason": None})
    clear_failing_since(connection, webhook.id)


def disable(connection: Connection, webhook_id: str, *, reason: str) -> None:
    """Nothing is sent from now on; what waits is given up, and its owner can send it again later."""
    disabled = {"disabled_at": db_now(), "disabled_reason": reason}
    connection.execute(update(webhooks).where(webhooks.c.id == webhook_id).values(disabled))
    waiting = update(webhook_deliveries).where(
        webhook_deliveries.c.webhook_id == webhook_id, webhook_deliveries.c.next_try_at.is_not(None)
    )
    connection.execute(waiting.values(next_try_at=None, last_error=f"the webhook was disabled: {reason}"))


def delete_webhook(connection: Connection, webhook_id: str, *, owner: str) -> bool:
    """Removes the webhook and its messages; False when there is none."""
    if find_webhook(connection, webhook_id, owner=owner, is_locked=True) is None:
        return False
    # In the order of a sender that writes a success: the message, then the mark.
    connection.execute(delete(webhooks).where(webhooks.c.id == webhook_id))
    clear_failing_since(connection, webhook_id)
    return True


def note_failing_since(connection: Connection, webhook_id: str) -> float:
    """Seconds since the first failure after the last success; 0 when this is the first."""
    name = _mark_name(webhook_id)
    row = connection.execute(select(db_now() - marks.c.at).where(marks.c.name == name)).first()
    if row is None:
        connection.execute(insert(marks).values(name=name, at=db_now()))
        return 0.0
    return float(row[0])


def clear_failing_since(connection: Connection, webhook_id: str) -> None:
    """A message has arrived."""
    connection.execute(delete(marks).where(marks.c.name == _mark_name(webhook_id)))


def _mark_name(webhook_id: str) -> str:
    return f"webhook_failing:{webhook_id}"


def _as_view(row: RowMapping) -> WebhookView:
    return WebhookView(**{**row, "events": tuple(row["events"])})
