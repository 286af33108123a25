"""Webhooks over a real server: made, told, changed, and nobody else's."""

import base64
import hmac
import json
import socket
import time
from hashlib import sha256

import pytest

from tests.integration.http.conftest import MINIMAL_JOB
from tests.support.webhook_receiver import WAIT_SECONDS, Received, run_receiver

TEST_BODY = {"url": "https://hooks.example.com/x"}


@pytest.fixture(scope="module")
def receiver():
    with run_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def hook_server(start_server):
    """A server whose webhooks may reach loopback."""
    return start_server(webhook_allowed_hosts="127.0.0.1")


@pytest.fixture(scope="module")
def ana(hook_server):
    with hook_server.make_client("ana") as client:
        yield client


def verify(received: Received, secret: str) -> None:
    """As a receiver does it, with nothing of ours."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode() + received.body
    expected = "v1," + base64.b64encode(hmac.new(key, signed, sha256).digest()).decode()
    assert expected in received.headers["webhook-signature"].split()


def wait_until_delivered(client, path: str) -> None:
    """The receiver has a message a moment before the service knows that it has."""
    deadline = time.monotonic() + WAIT_SECONDS
    while [each["status"] for each in client.get(f"{path}/deliveries").json()["data"]] != ["delivered"]:
        assert time.monotonic() < deadline


def test_the_end_of_a_job_arrives_signed(hook_server, ana, receiver):
    made = ana.post("/v1/webhooks", json={"url": f"{receiver.url}?team=a", "events": ["job.queued", "job.failed"]})
    assert made.status_code == 201, made.text
    webhook = made.json()
    assert made.headers["location"] == f"/v1/webhooks/{webhook['id']}"
    job = hook_server.start_job(
        ana,
        name="nightly",
        metadata={"ticket": "7"},
        config={
            **MINIMAL_JOB["config"],
            "huggingface_hub_token": "hf_" + "s" * 34,
        },
    )
    queued = receiver.wait()
    verify(queued, webhook["secret"])
    job.emit("progress", "metrics")
    job.finish("failed")
    failed = receiver.wait()
    verify(failed, webhook["secret"])
    assert failed.path == "/hook?team=a"
    assert failed.headers["content-type"] == "application/json"
    body = json.loads(failed.body)
    assert (body["type"], set(body)) == ("job.failed", {"type", "timestamp", "data"})
    data = body["data"]
    assert set(data) == {"id", "object", "status", "event", "name", "metadata", "error"}
    assert (data["id"], data["object"], data["status"]) == (job.id, "job", "failed")
    assert (data["name"], data["metadata"], data["error"]["code"]) == ("nightly", {"ticket": "7"}, "internal_error")
    listed = ana.get(f"/v1/jobs/{job.id}/events").json()["data"][-1]
    assert data["event"] == {name: listed[name] for name in data["event"]}
    assert b"hf_" not in queued.body + failed.body
    ana.delete(f"/v1/webhooks/{webhook['id']}")


def test_a_webhook_is_listed_changed_rotated_tested_and_deleted(ana, receiver):
    made = ana.post("/v1/webhooks", json={"url": receiver.url, "description": "chat"}).json()
    path = f"/v1/webhooks/{made['id']}"
    secret = made.pop("secret")
    assert len(base64.b64decode(secret.removeprefix("whsec_"))) == 32
    assert made["events"] == ["job.paused", "job.succeeded", "job.failed", "job.cancelled"]
    assert ana.get("/v1/webhooks").json()["data"] == [made]
    assert ana.get(path).json() == made

    changed = ana.patch(path, json={"description": None, "events": ["step.finished", "job.queued"]}).json()
    assert changed == {**made, "description": None, "events": ["job.queued", "step.finished"]}
    rotated = ana.post(f"{path}/rotate-secret").json()
    assert rotated["secret"] != secret

    sent = ana.post(f"{path}/test")
    assert (sent.status_code, sent.json()["type"], sent.json()["job_id"]) == (202, "webhook.test", None)
    message = receiver.wait()
    assert message.headers["webhook-id"] == sent.json()["id"]
    verify(message, secret)
    verify(message, rotated["secret"])
    assert json.loads(message.body)["data"] == {"id": made["id"], "object": "webhook"}
    wait_until_delivered(ana, path)
    again = ana.post(f"{path}/deliveries/{sent.json()['id']}/retry")
    assert (again.status_code, again.json()["status"]) == (202, "pending")
    assert receiver.wait().headers["webhook-id"] == sent.json()["id"]
    [delivery] = ana.get(f"{path}/deliveries").json()["data"]
    assert delivery["id"] == sent.json()["id"]

    disabled = ana.patch(path, json={"enabled": False}).json()
    assert (disabled["enabled"], disabled["disabled_reason"]) == (False, "its owner disabled it")
    refused = ana.post(f"{path}/test")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "webhook_disabled")
    assert ana.delete(path).json() == {"id": made["id"], "object": "webhook", "deleted": True}
    assert ana.get(path).status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"url": "http://hooks.example.com/x"}, "url"),
        ({"url": "https://169.254.169.254/latest"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://hooks.example.com/\r\nx: y"}, "url"),
        ({"url": "https://hooks.example.com/" + "a" * 3000}, "url"),
        ({**TEST_BODY, "events": []}, "events"),
        ({**TEST_BODY, "events": ["job.exploded"]}, "events.0"),
        ({**TEST_BODY, "description": "a\0b"}, "description"),
        ({**TEST_BODY, "secret": "mine"}, "secret"),
        ({}, "url"),
    ],
)
def test_what_cannot_be_a_receiver_is_refused_by_name(ana, body, param):
    answer = ana.post("/v1/webhooks", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, param)
    assert ana.get("/v1/webhooks").json()["data"] == []


def test_a_change_is_checked_as_the_first_url_was(ana):
    made = ana.post("/v1/webhooks", json=TEST_BODY).json()
    for body in ({"url": "https://localhost/"}, {"url": None}, {"events": []}, {"enabled": None}):
        assert ana.patch(f"/v1/webhooks/{made['id']}", json=body).status_code == 422
    assert ana.get(f"/v1/webhooks/{made['id']}").json()["url"] == TEST_BODY["url"]
    ana.delete(f"/v1/webhooks/{made['id']}")


def test_another_owner_finds_and_hears_nothing(hook_server, ana, receiver):
    made = ana.post("/v1/webhooks", json={"url": receiver.url, "events": ["job.queued"]}).json()
    delivery = ana.post(f"/v1/webhooks/{made['id']}/test").json()
    receiver.wait()
    path = f"/v1/webhooks/{made['id']}"
    with hook_server.make_client("bob") as bob:
        calls = [("GET", path), ("PATCH", path), ("DELETE", path), ("POST", f"{path}/test")]
        calls += [("POST", f"{path}/rotate-secret"), ("GET", f"{path}/deliveries")]
        calls += [("POST", f"{path}/deliveries/{delivery['id']}/retry")]
        for method, called in calls:
            answer = bob.request(method, called, **({"json": {}} if method == "PATCH" else {}))
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "webhook_not_found"), called
        theirs = bob.post("/v1/webhooks", json=TEST_BODY).json()
        answer = bob.post(f"/v1/webhooks/{theirs['id']}/deliveries/{delivery['id']}/retry")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "delivery_not_found")
        assert bob.get("/v1/webhooks").json()["data"] == [{k: v for k, v in theirs.items() if k != "secret"}]
        assert bob.post("/v1/jobs", json=MINIMAL_JOB).status_code == 201
    mine = ana.post("/v1/jobs", json=MINIMAL_JOB).json()
    assert json.loads(receiver.wait().body)["data"]["id"] == mine["id"]
    ana.delete(path)


def test_a_server_with_a_receiver_that_does_not_answer_stops_at_once(hook_server):
    """The last test of this module: the server is gone after it."""
    with socket.create_server(("127.0.0.1", 0)) as listener, hook_server.make_client() as client:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        made = client.post("/v1/webhooks", json={"url": url}).json()
        client.post(f"/v1/webhooks/{made['id']}/test")
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(4) == b"POST"
            started = time.monotonic()
            hook_server.stop()
            assert time.monotonic() - started < 5
