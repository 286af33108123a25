"""The sender's side of the outbox: messages are claimed, and what became of them is written."""

import time
from collections.abc import Collection

from app.db.session import SessionFactory, snapshot, transaction
from app.secrets.cipher import SealedSecret, UnreadableSecret, build_cipher
from app.settings import Settings
from app.webhooks import deliveries, repository
from app.webhooks.schedule import MAX_TRIES, find_delay
from app.webhooks.signing import SigningSecrets
from app.webhooks.views import SECRET_FIELD, Answer, ClaimedMessage

CLAIM_SECONDS = 60.0
"""A message whose sender is silent for so long is sent again; well above the longest exchange."""
FAILING_SECONDS = 5 * 86_400.0
"""A webhook to which nothing has arrived for so long is disabled."""
KEPT_SECONDS = 30 * 86_400.0
_GONE = 410


class OutgoingMessages:
    """Every method is one transaction; any number of senders in any number of processes may use the same outbox."""

    def __init__(self, sessions: SessionFactory, settings: Settings) -> None:
        self._sessions = sessions
        self._cipher = build_cipher(settings, "webhook-secrets")

    def claim(
        self, *, besides_owners: Collection[str] = (), besides_webhooks: Collection[str] = ()
    ) -> ClaimedMessage | None:
        """The message that is due for longest, ours for a minute; None when there is none."""
        with snapshot(self._sessions) as connection:
            if not deliveries.has_due(connection):
                return None
        with transaction(self._sessions) as connection:
            row = deliveries.claim(
                connection,
                claim_seconds=CLAIM_SECONDS,
                besides_owners=besides_owners,
                besides_webhooks=besides_webhooks,
            )
        if row is None:
            return None
        sealed = SealedSecret(SECRET_FIELD, key_id=row["key_id"], nonce=row["nonce"], ciphertext=row["ciphertext"])
        try:
            secrets = SigningSecrets.parse(self._cipher.open(row["webhook_id"], sealed))
        except UnreadableSecret:
            secrets = None
        message = ClaimedMessage(
            id=row["id"],
            webhook_id=row["webhook_id"],
            owner=row["owner"],
            url=row["url"],
            payload=row["payload"],
            tries=row["tries"],
            claimed_until=row["claimed_until"],
            now=row["now"],
            secrets=secrets,
        )
        if message.tries > MAX_TRIES:
            # Senders died of it, or with it, each time.
            self.record_failure(message, "no sender came to the end of its last try")
            return None
        return message

    def record_answer(self, message: ClaimedMessage, answer: Answer) -> None:
        """A 2xx ends the message; 410 disables the webhook; anything else is a failure."""
        if answer.is_success:
            with transaction(self._sessions) as connection:
                if deliveries.write_delivered(connection, message, status=answer.status):
                    repository.clear_failing_since(connection, message.webhook_id)
            return
        error = f"the receiver answered {answer.status}"
        if 300 <= answer.status < 400:
            error += ": redirects are not followed, give the URL that they lead to"
        self.record_failure(message, error, answer=answer)

    def record_failure(self, message: ClaimedMessage, error: str, *, answer: Answer | None = None) -> None:
        """Puts the message off, or gives it up after its last try; disables a webhook that failed for five days."""
        status = None if answer is None else answer.status
        retry_after = None if answer is None else answer.headers.get("retry-after")
        delay = find_delay(message.tries, status=status, retry_after=retry_after, now=time.time())
        with transaction(self._sessions) as connection:
            is_enabled = deliveries.lock_receiver(connection, message.webhook_id)
            if is_enabled is None:
                return
            delay = delay if is_enabled else None
            if not deliveries.write_failed(connection, message, status=status, error=error, delay_seconds=delay):
                return
            failing_seconds = repository.note_failing_since(connection, message.webhook_id)
            if is_enabled and status == _GONE:
                repository.disable(connection, message.webhook_id, reason="the receiver answered 410 Gone")
            elif is_enabled and failing_seconds >= FAILING_SECONDS:
                reason = f"nothing has arrived for {FAILING_SECONDS / 86_400:.0f} days; at last: {error}"
                repository.disable(connection, message.webhook_id, reason=reason)

    def remove_old(self) -> None:
        """Forgets messages that ended and are older than 30 days."""
        while True:
            with transaction(self._sessions) as connection:
                if deliveries.remove_old(connection, kept_seconds=KEPT_SECONDS) == 0:
                    return
