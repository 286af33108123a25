"""What owners do with their webhooks: make, look, change, rotate, test, delete, send again."""

from collections.abc import Sequence

from sqlalchemy import Connection

from app.db.session import SessionFactory, snapshot, transaction
from app.ids import new_id
from app.jobs.errors import InvalidSubmission, Problem
from app.jobs.outbox import build_delivery, build_payload
from app.jobs.storable import is_storable_text, make_text_storable
from app.jobs.views import Page
from app.secrets.cipher import SealedSecret, UnreadableSecret, build_cipher
from app.settings import Settings
from app.webhooks import deliveries, repository
from app.webhooks.addresses import AllowedHosts
from app.webhooks.errors import BadWebhookUrl, DeliveryNotFound, TooManyWebhooks, WebhookDisabled, WebhookNotFound
from app.webhooks.signing import SigningSecrets, make_secret
from app.webhooks.targets import parse_target
from app.webhooks.views import (
    DEFAULT_EVENT_TYPES,
    EVENT_TYPES,
    SECRET_FIELD,
    TEST_TYPE,
    DeliveryView,
    WebhookChange,
    WebhookView,
)

MAX_WEBHOOKS = 20
"""Of one owner."""
MAX_DESCRIPTION_CHARS = 512
_BY_OWNER = "its owner disabled it"


class WebhookService:
    """Every method is one transaction, and knows only the owner's webhooks; safe to use from any number of threads."""

    def __init__(self, sessions: SessionFactory, settings: Settings) -> None:
        self._sessions = sessions
        self._allowed = AllowedHosts.parse(settings.webhook_allowed_hosts)
        self._cipher = build_cipher(settings, "webhook-secrets")

    def create(
        self, owner: str, url: str, *, events: Sequence[str] = DEFAULT_EVENT_TYPES, description: str | None = None
    ) -> tuple[WebhookView, str]:
        """A new webhook and its secret, which is not shown again. Raises InvalidSubmission, TooManyWebhooks."""
        self._check(url=url, events=events, description=description)
        webhook_id, secret = new_id("webhook"), make_secret()
        values = {
            "id": webhook_id,
            "owner": owner,
            "url": url,
            "events": sort_events(events),
            "description": description,
            **self._seal(webhook_id, SigningSecrets(secret)),
        }
        with transaction(self._sessions) as connection:
            if repository.count_webhooks(connection, owner=owner) >= MAX_WEBHOOKS:
                raise TooManyWebhooks(MAX_WEBHOOKS)
            return repository.insert_webhook(connection, values), secret

    def get(self, owner: str, webhook_id: str) -> WebhookView:
        """The webhook. Raises WebhookNotFound."""
        with snapshot(self._sessions) as connection:
            return _find(connection, owner, webhook_id)

    def list(self, owner: str, *, after: str | None, limit: int) -> Page[WebhookView]:
        """Webhooks, newest first, from the next older than the id `after`."""
        after = None if after is None else make_text_storable(after)
        with snapshot(self._sessions) as connection:
            rows = repository.list_webhooks(connection, owner=owner, after=after, limit=limit + 1)
        return Page(rows[:limit], has_more=len(rows) > limit)

    def update(self, owner: str, webhook_id: str, change: WebhookChange) -> WebhookView:
        """Changes what `change` names. Disabling gives up what waits to be sent.

        Raises WebhookNotFound, InvalidSubmission.
        """
        given = change.names
        self._check(
            url=change.url if "url" in given else None,
            events=change.events if "events" in given else None,
            description=change.description,
        )
        values: dict[str, object] = {name: getattr(change, name) for name in ("url", "description") if name in given}
        if "events" in given:
            values["events"] = sort_events(change.events)
        with transaction(self._sessions) as connection:
            webhook = _find(connection, owner, webhook_id, is_locked=True)
            if values:
                repository.update_webhook(connection, webhook, values)
            if "enabled" in given and change.enabled != (webhook.disabled_at is None):
                if change.enabled:
                    repository.enable(connection, webhook)
                else:
                    repository.disable(connection, webhook_id, reason=_BY_OWNER)
            return _find(connection, owner, webhook_id)

    def delete(self, owner: str, webhook_id: str) -> None:
        """Removes the webhook with its messages. Raises WebhookNotFound."""
        with transaction(self._sessions) as connection:
            if not repository.delete_webhook(connection, webhook_id, owner=owner):
                raise WebhookNotFound(webhook_id)

    def rotate_secret(self, owner: str, webhook_id: str) -> tuple[WebhookView, str]:
        """A new secret, not shown again; for a day messages are signed with the old one too. Raises WebhookNotFound."""
        with transaction(self._sessions) as connection:
            webhook = _find(connection, owner, webhook_id, is_locked=True)
            sealed, now = repository.find_sealed(connection, webhook)
            try:
                secrets = self._open(webhook_id, sealed).rotate(now=now)
            except UnreadableSecret:
                # The installation's key has changed: the old secret is lost, and this is the way to a new one.
                secrets = SigningSecrets(make_secret())
            repository.update_webhook(connection, webhook, self._seal(webhook_id, secrets))
        return webhook, secrets.current

    def send_test(self, owner: str, webhook_id: str) -> DeliveryView:
        """Puts a test message into the outbox. Raises WebhookNotFound, WebhookDisabled."""
        with transaction(self._sessions) as connection:
            _find_enabled(connection, owner, webhook_id)
            now = deliveries.read_clock(connection)
            payload = build_payload(TEST_TYPE, at=now, data={"id": webhook_id, "object": "webhook"})
            row = build_delivery(webhook_id, type_=TEST_TYPE, payload=payload, job_id="", now=now)
            return deliveries.insert_delivery(connection, row)

    def list_deliveries(self, owner: str, webhook_id: str, *, after: str | None, limit: int) -> Page[DeliveryView]:
        """Messages of the last 30 days, newest first, from the next older than `after`. Raises WebhookNotFound."""
        after = None if after is None else make_text_storable(after)
        with snapshot(self._sessions) as connection:
            webhook = _find(connection, owner, webhook_id)
            rows = deliveries.list_deliveries(connection, webhook, after=after, limit=limit + 1)
        return Page(rows[:limit], has_more=len(rows) > limit)

    def retry(self, owner: str, webhook_id: str, delivery_id: str) -> DeliveryView:
        """Sends a message again, now. Raises WebhookNotFound, DeliveryNotFound, WebhookDisabled."""
        with transaction(self._sessions) as connection:
            webhook = _find_enabled(connection, owner, webhook_id)
            delivery = deliveries.send_again(connection, webhook, delivery_id=delivery_id)
        if delivery is None:
            raise DeliveryNotFound(delivery_id)
        return delivery

    def _check(self, *, url: str | None, events: Sequence[str] | None, description: str | None) -> None:
        problems = []
        if url is not None:
            try:
                parse_target(url, allowed=self._allowed)
            except BadWebhookUrl as error:
                problems.append(Problem(f"url: {error}", "url", "invalid_url"))
        unknown = sorted(set(events or ()) - set(EVENT_TYPES))
        if unknown or (events is not None and not events):
            named = f"{unknown[0]!r} is none" if unknown else "name at least one"
            problems.append(Problem(f"events: {named} of {', '.join(EVENT_TYPES)}", "events", "invalid_value"))
        if description and (len(description) > MAX_DESCRIPTION_CHARS or not is_storable_text(description)):
            message = f"description: at most {MAX_DESCRIPTION_CHARS} characters, none of them NUL"
            problems.append(Problem(message, "description", "invalid_value"))
        if problems:
            raise InvalidSubmission(problems)

    def _seal(self, webhook_id: str, secrets: SigningSecrets) -> dict[str, object]:
        sealed = self._cipher.seal(webhook_id, field=SECRET_FIELD, value=secrets.dump())
        return {"key_id": sealed.key_id, "nonce": sealed.nonce, "ciphertext": sealed.ciphertext}

    def _open(self, webhook_id: str, sealed: SealedSecret) -> SigningSecrets:
        return SigningSecrets.parse(self._cipher.open(webhook_id, sealed))


def sort_events(events: Sequence[str]) -> list[str]:
    """Each once, in the order of the documentation."""
    return [type_ for type_ in EVENT_TYPES if type_ in events]


def _find(connection: Connection, owner: str, webhook_id: str, *, is_locked: bool = False) -> WebhookView:
    webhook = repository.find_webhook(connection, webhook_id, owner=owner, is_locked=is_locked)
    if webhook is None:
        raise WebhookNotFound(webhook_id)
    return webhook


def _find_enabled(connection: Connection, owner: str, webhook_id: str) -> WebhookView:
    webhook = _find(connection, owner, webhook_id, is_locked=True)
    if webhook.disabled_at is not None:
        raise WebhookDisabled(webhook_id)
    return webhook
