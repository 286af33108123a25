"""Brings one message to its receiver: signed, within 15 seconds, and nowhere else."""

import socket
import time

from app.webhooks.addresses import AllowedHosts
from app.webhooks.connecting import Connector, Deadline
from app.webhooks.errors import BadWebhookUrl, SendFailed
from app.webhooks.exchange import exchange
from app.webhooks.targets import parse_target
from app.webhooks.views import Answer, ClaimedMessage

TOTAL_SECONDS = 15.0


class Postman:
    """Sends messages; safe to use from any number of threads."""

    def __init__(self, allowed: AllowedHosts, *, connector: Connector, total_seconds: float = TOTAL_SECONDS) -> None:
        self._allowed = allowed
        self._connector = connector
        self._total_seconds = total_seconds

    def send(self, message: ClaimedMessage) -> Answer:
        """What the receiver answered. Raises SendFailed."""
        if message.secrets is None:
            raise SendFailed("its secret cannot be read, because the installation's key has changed: rotate the secret")
        try:
            target = parse_target(message.url, allowed=self._allowed)
        except BadWebhookUrl as error:
            raise SendFailed(str(error)) from error
        timestamp = int(time.time())
        signature = message.secrets.sign(message.id, timestamp=timestamp, body=message.payload, now=message.now)
        headers = {
            "content-type": "application/json",
            "user-agent": "Finesmith-Webhooks/1",
            "webhook-id": message.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature,
        }
        deadline = Deadline(self._total_seconds)
        connection: socket.socket | None = None
        try:
            connection = self._connector.connect(target, deadline)
            return exchange(connection, target, headers=headers, body=message.payload.encode(), deadline=deadline)
        except TimeoutError as error:
            raise SendFailed(f"no whole answer within {self._total_seconds:g} s") from error
        except OSError as error:
            raise SendFailed("the connection broke") from error
        finally:
            if connection is not None:
                connection.close()
