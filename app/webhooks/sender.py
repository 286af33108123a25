"""The thread that sends what is due, several messages at a time; any number of servers may each run one."""

import logging
import threading
import time
from collections import Counter

from sqlalchemy.exc import SQLAlchemyError

from app.webhooks.errors import SendFailed
from app.webhooks.outgoing import CLAIM_SECONDS, OutgoingMessages
from app.webhooks.postman import Postman
from app.webhooks.views import Answer, ClaimedMessage

logger = logging.getLogger(__name__)

MAX_IN_FLIGHT = 8
MAX_IN_FLIGHT_OF_OWNER = 4
MAX_IN_FLIGHT_OF_WEBHOOK = 2
"""Receivers that let everybody wait hold up neither those of others nor all of the same owner."""
POLL_SECONDS = 0.5
STOP_SECONDS = 0.5
_REMOVE_EVERY_SECONDS = 3600.0
_WRITE_AGAIN_SECONDS = 1.0


class WebhookSender:
    """Claims, sends, writes. At least once: a sender that dies in between leaves the message to be sent again."""

    def __init__(self, outgoing: OutgoingMessages, postman: Postman, *, poll_seconds: float = POLL_SECONDS) -> None:
        self._outgoing = outgoing
        self._postman = postman
        self._poll_seconds = poll_seconds
        self._in_flight: list[ClaimedMessage] = []
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Starts the thread, which is a daemon."""
        thread = threading.Thread(target=self.run, name="webhooks", daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self) -> None:
        """Claims no more, and gives what is being sent half a second; the rest is sent again once its claim ends."""
        self._stopping.set()
        self._wake.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in tuple(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))

    def run(self) -> None:
        """Returns after `stop`. A database that is away is waited for."""
        remove_at = time.monotonic()
        while not self._stopping.is_set():
            # Cleared before looking, so that what happens meanwhile is not missed.
            self._wake.clear()
            try:
                while not self._stopping.is_set() and self._send_next():
                    pass
                if time.monotonic() >= remove_at:
                    remove_at = time.monotonic() + _REMOVE_EVERY_SECONDS
                    self._outgoing.remove_old()
            except (SQLAlchemyError, OSError) as error:
                logger.warning("the database did not answer the sender of webhooks: %s", error)
                self._stopping.wait(self._poll_seconds)
            self._wake.wait(self._poll_seconds)

    def deliver(self, message: ClaimedMessage) -> None:
        """Sends one message that was claimed, and writes what became of it; a database that is away is waited for."""
        until = time.monotonic() + CLAIM_SECONDS
        answer: Answer | None = None
        error = ""
        try:
            answer = self._postman.send(message)
        except SendFailed as failure:
            error = str(failure)
        while True:
            try:
                self._record(message, answer, error)
                return
            except (SQLAlchemyError, OSError) as away:
                logger.warning("what became of %s could not be written: %s", message.id, away)
                if time.monotonic() >= until or self._stopping.wait(_WRITE_AGAIN_SECONDS):
                    return

    def _record(self, message: ClaimedMessage, answer: Answer | None, error: str) -> None:
        if answer is None:
            logger.info("webhook %s: %s did not arrive: %s", message.webhook_id, message.id, error)
            self._outgoing.record_failure(message, error)
            return
        logger.info("webhook %s: %s was answered %d", message.webhook_id, message.id, answer.status)
        self._outgoing.record_answer(message, answer)

    def _send_next(self) -> bool:
        """Starts to send one more message; False when there is no room, or nothing that may be sent now."""
        with self._lock:
            messages = tuple(self._in_flight)
        if len(messages) >= MAX_IN_FLIGHT:
            return False
        owners = Counter(message.owner for message in messages)
        receivers = Counter(message.webhook_id for message in messages)
        message = self._outgoing.claim(
            besides_owners={owner for owner, count in owners.items() if count >= MAX_IN_FLIGHT_OF_OWNER},
            besides_webhooks={each for each, count in receivers.items() if count >= MAX_IN_FLIGHT_OF_WEBHOOK},
        )
        if message is None:
            return False
        thread = threading.Thread(target=self._deliver_and_leave, args=(message,), name="webhook", daemon=True)
        with self._lock:
            self._in_flight.append(message)
            self._threads.append(thread)
        thread.start()
        return True

    def _deliver_and_leave(self, message: ClaimedMessage) -> None:
        try:
            self.deliver(message)
        finally:
            with self._lock:
                self._in_flight.remove(message)
                self._threads.remove(threading.current_thread())
            self._wake.set()
