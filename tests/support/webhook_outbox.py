"""What tests do with the outbox of webhooks, on any database."""

from collections.abc import Sequence

from sqlalchemy import update

from app.db.clock import db_now
from app.db.models import webhook_deliveries
from app.db.session import transaction
from app.webhooks.outgoing import OutgoingMessages
from app.webhooks.service import WebhookService
from app.webhooks.views import ClaimedMessage, DeliveryView
from tests.support.installation import OWNER, CoreInstallation


def take(outgoing: OutgoingMessages) -> ClaimedMessage:
    """The message that is due."""
    message = outgoing.claim()
    assert message is not None
    return message


def list_all(service: WebhookService, webhook_id: str, *, owner: str = OWNER) -> Sequence[DeliveryView]:
    """Messages of a webhook, oldest first."""
    return service.list_deliveries(owner, webhook_id, after=None, limit=100).data[::-1]


def set_times(core: CoreInstallation, **seconds_ago: float) -> None:
    """Makes these times of all messages lie so long back."""
    values = {name: db_now() - seconds for name, seconds in seconds_ago.items()}
    with transaction(core.sessions) as connection:
        connection.execute(update(webhook_deliveries).values(values))
