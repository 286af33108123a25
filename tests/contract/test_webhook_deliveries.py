"""Messages to webhooks: sent by one at a time, put off, given up or forgotten, never left hanging."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, text, update

from app.db.clock import db_now
from app.db.models import marks
from app.db.session import snapshot, transaction
from app.webhooks import deliveries
from app.webhooks.addresses import AllowedHosts
from app.webhooks.connecting import Connector
from app.webhooks.errors import WebhookDisabled
from app.webhooks.outgoing import OutgoingMessages
from app.webhooks.postman import Postman
from app.webhooks.schedule import MAX_TRIES
from app.webhooks.sender import WebhookSender
from app.webhooks.service import WebhookService
from app.webhooks.views import Answer, WebhookChange
from tests.support.installation import OWNER, CoreInstallation
from tests.support.webhook_outbox import list_all, set_times, take
from tests.support.webhook_receiver import WAIT_SECONDS, run_receiver

URL = "https://hooks.example.com/x"
OK, BAD = Answer(200, {}), Answer(500, {})
DAY = 86_400


@pytest.fixture
def service(core: CoreInstallation) -> WebhookService:
    return WebhookService(core.sessions, core.settings)


@pytest.fixture
def outgoing(core: CoreInstallation) -> OutgoingMessages:
    return OutgoingMessages(core.sessions, core.settings)


def age_failing(core: CoreInstallation, days: float) -> None:
    with transaction(core.sessions) as connection:
        connection.execute(update(marks).values(at=db_now() - days * DAY))


def test_a_message_is_one_senders_until_its_claim_ends_and_keeps_its_id(
    core: CoreInstallation, service: WebhookService, outgoing: OutgoingMessages
) -> None:
    webhook, _ = service.create(OWNER, URL)
    sent = service.send_test(OWNER, webhook.id)
    lost = take(outgoing)
    assert (lost.id, lost.tries, lost.url) == (sent.id, 1, URL)
    assert outgoing.claim() is None
    # The sender died between sending and writing.
    set_times(core, claimed_until=1)
    second = take(outgoing)
    assert (second.id, second.payload, second.tries) == (lost.id, lost.payload, 2)
    outgoing.record_answer(lost, OK)
    outgoing.record_failure(lost, "late")
    assert list_all(service, webhook.id)[0].status == "pending"
    outgoing.record_answer(second, OK)
    [done] = list_all(service, webhook.id)
    assert (done.status, done.last_status, done.tries, done.next_try_at) == ("delivered", 200, 2, None)
    assert outgoing.claim() is None


def test_senders_that_ask_at_once_get_different_messages(service: WebhookService, outgoing: OutgoingMessages) -> None:
    webhook, _ = service.create(OWNER, URL)
    sent = {service.send_test(OWNER, webhook.id).id for _ in range(20)}
    barrier = threading.Barrier(5)

    def take_all(_: int) -> list[str]:
        barrier.wait(10)
        taken = []
        while (message := outgoing.claim()) is not None:
            taken.append(message.id)
        return taken

    with ThreadPoolExecutor(5) as pool:
        taken = [message_id for each in pool.map(take_all, range(5)) for message_id in each]
    # On PostgreSQL a sender passes over what another is just taking, so some may be left for the next round.
    while (message := outgoing.claim()) is not None:
        taken.append(message.id)
    assert len(taken) == len(sent)
    assert set(taken) == sent


def test_busy_owners_and_receivers_are_passed_over(service: WebhookService, outgoing: OutgoingMessages) -> None:
    mine, theirs = service.create(OWNER, URL)[0], service.create("bob", URL)[0]
    service.send_test(OWNER, mine.id)
    other = service.send_test("bob", theirs.id)
    assert outgoing.claim(besides_owners={OWNER, "bob"}) is None
    assert outgoing.claim(besides_webhooks={mine.id, theirs.id}) is None
    message = outgoing.claim(besides_owners={OWNER})
    assert message is not None
    assert message.id == other.id


def test_a_failed_message_is_put_off_and_given_up_after_the_last_try(
    core: CoreInstallation, service: WebhookService, outgoing: OutgoingMessages
) -> None:
    webhook, _ = service.create(OWNER, URL)
    service.send_test(OWNER, webhook.id)
    for tries in range(1, MAX_TRIES + 1):
        message = take(outgoing)
        assert message.tries == tries
        outgoing.record_answer(message, BAD)
        [failed] = list_all(service, webhook.id)
        assert (failed.last_status, failed.last_error) == (500, "the receiver answered 500")
        assert outgoing.claim() is None
        if tries < MAX_TRIES:
            assert failed.status == "pending"
            set_times(core, next_try_at=1)
    assert (failed.status, failed.next_try_at, failed.tries) == ("failed", None, MAX_TRIES)

    again = service.retry(OWNER, webhook.id, failed.id)
    assert (again.status, again.tries) == ("pending", 0)
    outgoing.record_answer(take(outgoing), OK)
    [done] = list_all(service, webhook.id)
    assert (done.status, done.tries, done.last_error) == ("delivered", 1, None)


def test_a_redirect_is_a_failure_that_says_so(service: WebhookService, outgoing: OutgoingMessages) -> None:
    webhook, _ = service.create(OWNER, URL)
    service.send_test(OWNER, webhook.id)
    outgoing.record_answer(take(outgoing), Answer(302, {"location": "http://169.254.169.254/"}))
    [failed] = list_all(service, webhook.id)
    assert failed.last_status == 302
    assert "redirects are not followed" in str(failed.last_error)


def test_a_busy_receiver_is_not_asked_earlier_than_it_says(service: WebhookService, outgoing: OutgoingMessages) -> None:
    webhook, _ = service.create(OWNER, URL)
    service.send_test(OWNER, webhook.id)
    message = take(outgoing)
    outgoing.record_answer(message, Answer(503, {"retry-after": "3600"}))
    [put_off] = list_all(service, webhook.id)
    assert put_off.next_try_at == pytest.approx(message.now + 3600, abs=60)


def test_a_receiver_that_is_gone_is_disabled_with_all_that_waits(
    service: WebhookService, outgoing: OutgoingMessages
) -> None:
    webhook, _ = service.create(OWNER, URL)
    for _ in range(2):
        service.send_test(OWNER, webhook.id)
    outgoing.record_answer(take(outgoing), Answer(410, {}))
    disabled = service.get(OWNER, webhook.id)
    assert disabled.disabled_at is not None
    assert "410" in str(disabled.disabled_reason)
    assert {each.status for each in list_all(service, webhook.id)} == {"failed"}
    assert outgoing.claim() is None
    with pytest.raises(WebhookDisabled):
        service.retry(OWNER, webhook.id, list_all(service, webhook.id)[0].id)


def test_a_disabled_webhook_gets_nothing_and_one_enabled_again_does(
    core: CoreInstallation, service: WebhookService, outgoing: OutgoingMessages
) -> None:
    webhook, _ = service.create(OWNER, URL, events=["job.queued"])
    core.submit()
    in_flight = take(outgoing)
    service.update(OWNER, webhook.id, WebhookChange(frozenset({"enabled"}), enabled=False))
    core.submit()
    # Its failure does not bring it back, either.
    outgoing.record_answer(in_flight, BAD)
    assert [each.status for each in list_all(service, webhook.id)] == ["failed"]
    enabled = service.update(OWNER, webhook.id, WebhookChange(frozenset({"enabled"}), enabled=True))
    assert (enabled.disabled_at, enabled.disabled_reason) == (None, None)
    core.submit()
    assert [each.status for each in list_all(service, webhook.id)] == ["failed", "pending"]


def test_a_webhook_is_disabled_when_nothing_arrived_for_five_days(
    core: CoreInstallation, service: WebhookService, outgoing: OutgoingMessages
) -> None:
    webhook, _ = service.create(OWNER, URL)

    def fail() -> bool:
        service.send_test(OWNER, webhook.id)
        outgoing.record_failure(take(outgoing), "the connection was refused")
        return service.get(OWNER, webhook.id).disabled_at is not None

    assert not fail()
    age_failing(core, 4.9)
    assert not fail()
    service.send_test(OWNER, webhook.id)
    outgoing.record_answer(take(outgoing), OK)
    assert not fail()
    age_failing(core, 5.1)
    assert fail()
    assert "5 days" in str(service.get(OWNER, webhook.id).disabled_reason)
    service.update(OWNER, webhook.id, WebhookChange(frozenset({"enabled"}), enabled=True))
    assert not fail()
    service.delete(OWNER, webhook.id)
    with snapshot(core.sessions) as connection:
        assert connection.execute(select(marks.c.name)).all() == []


def test_messages_that_have_ended_are_forgotten_after_a_month(
    core: CoreInstallation, service: WebhookService, outgoing: OutgoingMessages
) -> None:
    webhook, _ = service.create(OWNER, URL)
    service.send_test(OWNER, webhook.id)
    outgoing.record_answer(take(outgoing), OK)
    set_times(core, created_at=29 * DAY)
    outgoing.remove_old()
    assert len(list_all(service, webhook.id)) == 1
    waiting = service.send_test(OWNER, webhook.id)
    set_times(core, created_at=31 * DAY)
    outgoing.remove_old()
    assert [each.id for each in list_all(service, webhook.id)] == [waiting.id]


def test_a_message_that_waits_goes_to_the_new_url(service: WebhookService, outgoing: OutgoingMessages) -> None:
    webhook, _ = service.create(OWNER, URL)
    service.send_test(OWNER, webhook.id)
    service.update(OWNER, webhook.id, WebhookChange(frozenset({"url"}), url=f"{URL}/new"))
    assert take(outgoing).url == f"{URL}/new"


def test_due_messages_are_found_by_an_index(core: CoreInstallation) -> None:
    with snapshot(core.sessions) as connection:
        if connection.dialect.name == "postgresql":
            # An empty table would be read as a whole.
            connection.execute(text("SET LOCAL enable_seqscan = off"))
        query = str(deliveries._find_due.compile(connection, compile_kwargs={"literal_binds": True}))
        prefix = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        plan = str(connection.execute(text(f"{prefix} {query}")).all())
    assert "ix_webhook_deliveries_next_try_at" in plan
    assert "Index Cond: (next_try_at <=" in plan or "next_try_at<?" in plan


def test_a_message_that_every_sender_died_of_is_given_up(
    core: CoreInstallation, service: WebhookService, outgoing: OutgoingMessages
) -> None:
    webhook, _ = service.create(OWNER, URL)
    service.send_test(OWNER, webhook.id)
    for _ in range(MAX_TRIES):
        take(outgoing)
        set_times(core, claimed_until=1)
    assert outgoing.claim() is None
    [given_up] = list_all(service, webhook.id)
    assert (given_up.status, given_up.last_status) == ("failed", None)


def test_several_senders_on_one_outbox_send_each_message_once(core: CoreInstallation) -> None:
    settings = core.settings.model_copy(update={"webhook_allowed_hosts": ("127.0.0.1",)})
    service = WebhookService(core.sessions, settings)
    allowed = AllowedHosts.parse(settings.webhook_allowed_hosts)
    senders = [
        WebhookSender(
            OutgoingMessages(core.sessions, settings),
            Postman(allowed, connector=Connector(allowed)),
            poll_seconds=0.02,
        )
        for _ in range(3)
    ]
    with run_receiver() as receiver:
        made = [service.create(OWNER, receiver.url)[0] for _ in range(3)]
        sent = sorted(service.send_test(OWNER, webhook.id).id for webhook in made for _ in range(8))
        for sender in senders:
            sender.start()
        received = sorted(receiver.wait().headers["webhook-id"] for _ in sent)
        pause, deadline = threading.Event(), time.monotonic() + WAIT_SECONDS
        while {each.status for webhook in made for each in list_all(service, webhook.id)} != {"delivered"}:
            assert time.monotonic() < deadline
            pause.wait(0.01)
        for sender in senders:
            sender.stop()
        assert received == sent
        assert receiver.received.empty()
