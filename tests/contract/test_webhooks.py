"""Webhooks as the database keeps them: told in the event's transaction, sent by one at a time, never left hanging."""

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import select, text, update

from app.db.clock import db_now
from app.db.models import events, jobs, marks, webhook_deliveries, webhooks
from app.db.session import snapshot, transaction
from app.jobs import outbox, repository
from app.jobs.commands import NewEvent, Outcome
from app.jobs.errors import InvalidSubmission
from app.jobs.transitions import Change
from app.jobs.views import JobError
from app.webhooks import deliveries
from app.webhooks.addresses import AllowedHosts
from app.webhooks.connecting import Connector
from app.webhooks.errors import DeliveryNotFound, TooManyWebhooks, WebhookDisabled, WebhookNotFound
from app.webhooks.outgoing import OutgoingMessages
from app.webhooks.postman import Postman
from app.webhooks.schedule import MAX_TRIES
from app.webhooks.sender import WebhookSender
from app.webhooks.service import MAX_WEBHOOKS, WebhookService
from app.webhooks.views import Answer, ClaimedMessage, DeliveryView, WebhookChange
from tests.support.installation import OWNER, CoreInstallation
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


def take(outgoing: OutgoingMessages) -> ClaimedMessage:
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


def age_failing(core: CoreInstallation, days: float) -> None:
    with transaction(core.sessions) as connection:
        connection.execute(update(marks).values(at=db_now() - days * DAY))


def test_each_event_that_is_wanted_becomes_one_message(core: CoreInstallation, service: WebhookService) -> None:
    ends, _ = service.create(OWNER, URL)
    steps, _ = service.create(OWNER, URL, events=["step.finished", "job.running", "job.queued"])
    others, _ = service.create("bob", URL, events=["job.queued", "job.running"])
    core.add_worker()
    claim = core.claim_new(name="nightly", metadata={"a": "b"}, config={"huggingface_hub_token": "hf_" + "s" * 34})
    told = [
        NewEvent("step.started", step="prepare"),
        NewEvent("metrics", step="prepare", data={"loss": 1.0}),
        NewEvent("step.finished", step="prepare", message="done", data={"rows": 3}),
        NewEvent("step.finished", step="train"),
    ]
    core.jobs.record_events(claim.job_id, claim.attempt, told)
    core.jobs.finish(claim.job_id, claim.attempt, Outcome("failed", JobError("invalid_data", "no rows")))
    types = ["job.queued", "job.running", "step.finished", "step.finished"]
    assert [each.type for each in list_all(service, steps.id)] == types
    [failed] = list_all(service, ends.id)
    assert (failed.type, failed.job_id, failed.status, failed.tries) == ("job.failed", claim.job_id, "pending", 0)
    assert list_all(service, others.id, owner="bob") == []

    with snapshot(core.sessions) as connection:
        rows = connection.execute(select(webhook_deliveries).order_by(webhook_deliveries.c.id)).all()
    bodies = [json.loads(row.payload) for row in rows]
    assert all("hf_" not in row.payload and "config" not in row.payload for row in rows)
    [body] = [body for body in bodies if body["type"] == "job.failed"]
    assert (body["data"]["name"], body["data"]["metadata"], body["data"]["status"]) == ("nightly", {"a": "b"}, "failed")
    assert body["data"]["error"]["code"] == "invalid_data"
    assert body["data"]["event"]["seq"] == 7
    finished = bodies[2]["data"]["event"]
    assert (finished["step"], finished["message"], finished["data"]) == ("prepare", "done", {"rows": 3})


def test_data_beyond_the_limit_are_left_out_of_the_message(core: CoreInstallation, service: WebhookService) -> None:
    service.create(OWNER, URL, events=["step.finished"])
    core.add_worker()
    claim = core.claim_new()
    large = {"text": "x" * outbox.MAX_EVENT_DATA_BYTES}
    core.jobs.record_events(claim.job_id, claim.attempt, [NewEvent("step.finished", step="train", data=large)])
    with snapshot(core.sessions) as connection:
        payload = connection.execute(select(webhook_deliveries.c.payload)).scalar_one()
    assert json.loads(payload)["data"]["event"]["data"] is None


def test_a_message_is_rolled_back_with_its_event(core: CoreInstallation, service: WebhookService) -> None:
    webhook, _ = service.create(OWNER, URL, events=["job.queued", "job.cancelled"])
    job = core.submit()

    def tell_and_break() -> None:
        with transaction(core.sessions) as connection:
            row = repository.lock_job(connection, job.id)
            assert row is not None
            repository.apply_change(connection, row, Change({}, (NewEvent("job.cancelled"),)))
            inside = connection.execute(select(webhook_deliveries.c.type).order_by(webhook_deliveries.c.id))
            assert list(inside.scalars()) == ["job.queued", "job.cancelled"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        tell_and_break()
    assert [each.type for each in list_all(service, webhook.id)] == ["job.queued"]


def test_an_event_is_rolled_back_with_its_message(
    core: CoreInstallation, service: WebhookService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.create(OWNER, URL, events=["job.queued"])
    # A message that the database refuses: there is no other way to make it refuse one.
    monkeypatch.setattr(outbox, "new_id", lambda prefix: None)
    with pytest.raises(Exception, match=r"(?i)not.null"):
        core.submit()
    with snapshot(core.sessions) as connection:
        assert connection.execute(select(jobs.c.id)).all() == []
        assert connection.execute(select(events.c.seq)).all() == []


def test_an_owner_without_webhooks_pays_one_select_and_only_where_it_may_matter(core: CoreInstallation) -> None:
    statements: list[str] = []
    core.add_worker(slots=2)

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    def count_of(action: Callable[[], object]) -> int:
        statements.clear()
        action()
        return len([statement for statement in statements if "webhook" in statement])

    sqlalchemy_event.listen(core.sessions.engine, "before_cursor_execute", note)
    assert count_of(core.submit) == 1
    claim = core.claim_new()
    progress = [NewEvent("progress", step="train", data={"global_step": 1}), NewEvent("metrics", step="train")]
    assert count_of(lambda: core.jobs.record_events(claim.job_id, claim.attempt, progress)) == 0


def test_a_webhook_that_is_deleted_meanwhile_does_not_break_the_job(
    core: CoreInstallation, service: WebhookService
) -> None:
    webhook, _ = service.create(OWNER, URL, events=["job.queued"])
    entered, deleted = threading.Event(), threading.Event()

    def delete() -> None:
        entered.wait(10)
        service.delete(OWNER, webhook.id)
        deleted.set()

    with ThreadPoolExecutor(1) as pool:
        deleting = pool.submit(delete)
        with transaction(core.sessions) as connection:
            connection.execute(outbox._find_webhooks, {"job_owner": OWNER}).all()
            entered.set()
            # It waits for this transaction, which still refers to the webhook.
            assert not deleted.wait(0.2)
            row = outbox.build_delivery(webhook.id, type_="job.queued", payload="{}", job_id="job-x", now=1.0)
            connection.execute(webhook_deliveries.insert().values(row))
        deleting.result(10)
    assert core.submit().status == "queued"
    with snapshot(core.sessions) as connection:
        assert connection.execute(select(webhook_deliveries.c.id)).all() == []


def test_secret_lies_nowhere_in_plain_text_and_opens_for_its_webhook_alone(
    core: CoreInstallation, service: WebhookService, outgoing: OutgoingMessages
) -> None:
    (first, secret), (second, _) = service.create(OWNER, URL), service.create(OWNER, URL)
    with snapshot(core.sessions) as connection:
        assert secret not in str(connection.execute(select(webhooks)).all())
    service.send_test(OWNER, first.id)
    message = take(outgoing)
    assert message.secrets is not None
    assert message.secrets.current == secret
    assert secret not in repr(message)
    with transaction(core.sessions) as connection:
        row = connection.execute(select(webhooks).where(webhooks.c.id == first.id)).one()
        sealed = {"nonce": row.nonce, "ciphertext": row.ciphertext}
        connection.execute(update(webhooks).where(webhooks.c.id == second.id).values(sealed))
    service.send_test(OWNER, second.id)
    assert take(outgoing).secrets is None
    _, fresh = service.rotate_secret(OWNER, second.id)
    service.send_test(OWNER, second.id)
    opened = take(outgoing).secrets
    assert opened is not None
    assert (opened.current, opened.previous) == (fresh, None)


def test_a_rotated_secret_stays_good_beside_the_new_one_for_a_day(
    service: WebhookService, outgoing: OutgoingMessages
) -> None:
    webhook, old = service.create(OWNER, URL)
    _, new = service.rotate_secret(OWNER, webhook.id)
    service.send_test(OWNER, webhook.id)
    message = take(outgoing)
    assert message.secrets is not None
    assert (message.secrets.current, message.secrets.previous) == (new, old)
    assert message.secrets.previous_until == pytest.approx(message.now + DAY, abs=60)


def test_webhooks_and_messages_are_their_owners_alone(service: WebhookService) -> None:
    webhook, _ = service.create(OWNER, URL)
    delivery = service.send_test(OWNER, webhook.id)
    theirs, _ = service.create("bob", URL)
    for webhook_id in (webhook.id, "webhook-nope", "", "a\0b", "webhook-" + "0" * 26):
        for call in (
            lambda bad: service.get("bob", bad),
            lambda bad: service.update("bob", bad, WebhookChange(frozenset({"enabled"}), enabled=False)),
            lambda bad: service.delete("bob", bad),
            lambda bad: service.rotate_secret("bob", bad),
            lambda bad: service.send_test("bob", bad),
            lambda bad: service.list_deliveries("bob", bad, after=None, limit=1),
            lambda bad: service.retry("bob", bad, delivery.id),
        ):
            with pytest.raises(WebhookNotFound):
                call(webhook_id)
    for delivery_id in (delivery.id, "", "msg-x"):
        with pytest.raises(DeliveryNotFound):
            service.retry("bob", theirs.id, delivery_id)
    assert [each.id for each in service.list("bob", after=None, limit=5).data] == [theirs.id]
    assert service.get(OWNER, webhook.id) == webhook


def test_an_owner_has_only_so_many_webhooks_whoever_asks_at_once(service: WebhookService) -> None:
    for _ in range(MAX_WEBHOOKS - 2):
        service.create(OWNER, URL)

    def create(_: int) -> bool:
        try:
            service.create(OWNER, URL)
        except TooManyWebhooks:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(create, range(6))) == 2
    service.create("bob", URL)
    page = service.list(OWNER, after=None, limit=5)
    rest = service.list(OWNER, after=page.data[-1].id, limit=100)
    assert (page.has_more, len(page.data) + len(rest.data)) == (True, MAX_WEBHOOKS)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"url": "http://hooks.example.com"}, "url"),
        ({"url": "https://10.1.2.3/"}, "url"),
        ({"events": []}, "events"),
        ({"events": ["metrics"]}, "events"),
        ({"description": "x" * 513}, "description"),
        ({"description": "a\0"}, "description"),
    ],
)
def test_what_is_wrong_names_its_field(service: WebhookService, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidSubmission) as refused:
        service.create(OWNER, **{"url": URL, **fields})
    assert [problem.param for problem in refused.value.problems] == [param]


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
