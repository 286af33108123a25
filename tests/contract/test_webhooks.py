"""Webhooks as owners have them: told in the transaction of each event, secrets sealed, nobody else's."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import select, update

from app.db.models import events, jobs, webhook_deliveries, webhooks
from app.db.session import snapshot, transaction
from app.jobs import outbox, repository
from app.jobs.commands import NewEvent, Outcome
from app.jobs.errors import InvalidSubmission
from app.jobs.transitions import Change
from app.jobs.views import JobError
from app.webhooks.errors import DeliveryNotFound, TooManyWebhooks, WebhookNotFound
from app.webhooks.outgoing import OutgoingMessages
from app.webhooks.service import MAX_WEBHOOKS, WebhookService
from app.webhooks.views import Answer, WebhookChange
from tests.support.installation import OWNER, CoreInstallation
from tests.support.webhook_outbox import list_all, take

URL = "https://hooks.example.com/x"
OK, BAD = Answer(200, {}), Answer(500, {})
DAY = 86_400


@pytest.fixture
def service(core: CoreInstallation) -> WebhookService:
    return WebhookService(core.sessions, core.settings)


@pytest.fixture
def outgoing(core: CoreInstallation) -> OutgoingMessages:
    return OutgoingMessages(core.sessions, core.settings)


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
