"""The thread that sends: it repeats what a crash left open, is held up by nobody, and stops when told."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import select, text, update

from app.api.services import build_services
from app.db.models import webhook_deliveries
from app.db.session import snapshot, transaction
from app.webhooks.addresses import AllowedHosts
from app.webhooks.connecting import Connector
from app.webhooks.outgoing import OutgoingMessages
from app.webhooks.postman import Postman
from app.webhooks.sender import MAX_IN_FLIGHT_OF_WEBHOOK, WebhookSender
from app.webhooks.service import WebhookService
from tests.support.installation import OWNER, CoreInstallation
from tests.support.webhook_receiver import WAIT_SECONDS, run_raw_server, run_receiver

SEND_UNTIL_KILLED = """
import sys
from pathlib import Path
from app.db.session import SessionFactory, build_engine
from app.settings import Settings
from app.webhooks.addresses import AllowedHosts
from app.webhooks.connecting import Connector
from app.webhooks.outgoing import OutgoingMessages
from app.webhooks.postman import Postman
from app.webhooks.sender import WebhookSender
settings = Settings(data_dir=Path(sys.argv[1]))
allowed = AllowedHosts.parse(["127.0.0.1"])
outgoing = OutgoingMessages(SessionFactory(build_engine(settings.database_url)), settings)
WebhookSender(outgoing, Postman(allowed, connector=Connector(allowed))).run()
"""


@contextmanager
def run_sender(core: CoreInstallation) -> Iterator[WebhookSender]:
    allowed = AllowedHosts.parse(core.settings.webhook_allowed_hosts)
    postman = Postman(allowed, connector=Connector(allowed))
    sender = WebhookSender(OutgoingMessages(core.sessions, core.settings), postman, poll_seconds=0.02)
    sender.start()
    try:
        yield sender
    finally:
        sender.stop()


@pytest.fixture
def service(core: CoreInstallation) -> WebhookService:
    return WebhookService(core.sessions, core.settings)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline, pause = time.monotonic() + WAIT_SECONDS, threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.01)


def read_statuses(core: CoreInstallation) -> set[int | None]:
    with snapshot(core.sessions) as connection:
        return set(connection.execute(select(webhook_deliveries.c.last_status)).scalars())


def end_claims(core: CoreInstallation) -> None:
    with transaction(core.sessions) as connection:
        connection.execute(update(webhook_deliveries).values(claimed_until=1.0))


def rename_table(core: CoreInstallation, old: str, new: str) -> None:
    """A database whose messages cannot be read is as good as one that is away."""
    with transaction(core.sessions) as connection:
        connection.execute(text(f"ALTER TABLE {old} RENAME TO {new}"))


def test_a_sender_killed_between_sending_and_writing_leaves_the_message_to_be_sent_again_under_its_id(
    core: CoreInstallation, service: WebhookService
) -> None:
    ids: list[bytes] = []
    sender: list[subprocess.Popen[bytes]] = []

    def kill_then_answer(connection: socket.socket) -> None:
        head = connection.recv(65536).split(b"\r\n")
        ids.extend(line for line in head if line.startswith(b"webhook-id: "))
        if len(ids) == 1:
            os.kill(sender[0].pid, signal.SIGKILL)
            return
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with run_raw_server(kill_then_answer) as port:
        webhook, _ = service.create(OWNER, f"http://127.0.0.1:{port}/")
        sent = service.send_test(OWNER, webhook.id)
        argv = [sys.executable, "-c", SEND_UNTIL_KILLED, str(core.settings.data_dir)]
        sender.append(subprocess.Popen(argv))
        assert sender[0].wait(60) == -signal.SIGKILL
        [claimed] = service.list_deliveries(OWNER, webhook.id, after=None, limit=5).data
        assert (claimed.status, claimed.tries, claimed.last_status) == ("pending", 1, None)
        end_claims(core)
        with run_sender(core):
            wait_until(lambda: read_statuses(core) == {204})
    assert ids == [f"webhook-id: {sent.id}".encode()] * 2


def test_receivers_that_never_answer_hold_up_no_other(core: CoreInstallation, service: WebhookService) -> None:
    released = threading.Event()
    called: list[object] = []

    def hang(connection: socket.socket) -> None:
        called.append(connection)
        released.wait(WAIT_SECONDS)

    with run_raw_server(hang) as port, run_receiver() as receiver:
        silent, _ = service.create(OWNER, f"http://127.0.0.1:{port}/")
        for _ in range(10):
            service.send_test(OWNER, silent.id)
        with run_sender(core) as sender:
            wait_until(lambda: len(called) == MAX_IN_FLIGHT_OF_WEBHOOK)
            for owner in (OWNER, "bob"):
                good, _ = service.create(owner, receiver.url)
                sent = service.send_test(owner, good.id)
                assert receiver.wait().headers["webhook-id"] == sent.id
            assert len(called) == MAX_IN_FLIGHT_OF_WEBHOOK
            started = time.monotonic()
            sender.stop()
            assert time.monotonic() - started < 1
        released.set()


def test_a_database_that_is_away_is_waited_for(
    core: CoreInstallation, service: WebhookService, caplog: pytest.LogCaptureFixture
) -> None:
    with run_receiver() as receiver:
        webhook, _ = service.create(OWNER, receiver.url)
        sent = service.send_test(OWNER, webhook.id)
        rename_table(core, "webhook_deliveries", "away")
        with run_sender(core):
            wait_until(lambda: "did not answer" in caplog.text)
            rename_table(core, "away", "webhook_deliveries")
            assert receiver.wait().headers["webhook-id"] == sent.id
            wait_until(lambda: read_statuses(core) == {204})


def test_what_became_of_a_message_is_written_when_the_database_is_back(
    core: CoreInstallation, service: WebhookService, caplog: pytest.LogCaptureFixture
) -> None:
    def lose_database_then_answer(connection: socket.socket) -> None:
        connection.recv(65536)
        rename_table(core, "webhook_deliveries", "away")
        connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with run_raw_server(lose_database_then_answer) as port:
        webhook, _ = service.create(OWNER, f"http://127.0.0.1:{port}/")
        service.send_test(OWNER, webhook.id)
        with run_sender(core):
            wait_until(lambda: "could not be written" in caplog.text)
            rename_table(core, "away", "webhook_deliveries")
            wait_until(lambda: read_statuses(core) == {204})
    [delivery] = service.list_deliveries(OWNER, webhook.id, after=None, limit=5).data
    assert (delivery.status, delivery.tries) == ("delivered", 1)


def test_the_apps_own_sender_is_told_which_hosts_are_allowed(core: CoreInstallation, service: WebhookService) -> None:
    services = build_services(core.settings)
    with run_receiver() as receiver:
        webhook, _ = services.webhooks.create(OWNER, receiver.url)
        sent = services.webhooks.send_test(OWNER, webhook.id)
        services.webhook_sender.start()
        assert receiver.wait().headers["webhook-id"] == sent.id
        wait_until(lambda: read_statuses(core) == {204})
        services.webhook_sender.stop()
    services.engine.dispose()
