"""How single calls go over the network: what is sent, what is repeated, what ends them."""

import time

import finesmith
import pytest
from finesmith import Client, RetryPolicy

from tests.unit.client import examples, fake_service
from tests.unit.client.fake_service import DROPPED, FakeService, Reply

JOB = Reply(json=examples.job())


def test_every_call_carries_the_key_and_the_version(client: Client, service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job-1", JOB)
    client.jobs.get("job-1")
    headers = service.requests[0].headers
    assert headers["authorization"] == "Bearer fsk_test"
    assert headers["user-agent"] == f"finesmith-python/{finesmith.__version__}"


@pytest.mark.parametrize("failure", [DROPPED, fake_service.error(503), fake_service.error(500), Reply(502, body=b"<")])
def test_a_call_outlives_passing_failures(client: Client, service: FakeService, failure: Reply) -> None:
    service.on("GET", "/v1/jobs/job-1", failure, failure, JOB)
    assert client.jobs.get("job-1").status == "running"
    assert len(service.requests) == 3


def test_a_call_gives_up_after_its_retries(client: Client, service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job-1", fake_service.error(503, "Out of order."))
    with pytest.raises(finesmith.InternalServerError, match="Out of order"):
        client.jobs.get("job-1")
    assert len(service.requests) == 4


def test_retry_after_is_waited_for(client: Client, service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job-1", fake_service.error(429, headers={"retry-after": "0.3"}), JOB)
    started = time.monotonic()
    client.jobs.get("job-1")
    assert time.monotonic() - started >= 0.3


def test_a_long_retry_after_is_told_instead_of_waited_for(client: Client, service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job-1", fake_service.error(429, headers={"retry-after": "3600"}))
    with pytest.raises(finesmith.RateLimitError) as caught:
        client.jobs.get("job-1")
    assert caught.value.retry_after_seconds == 3600
    assert len(service.requests) == 1


def test_a_submission_is_repeated_under_one_idempotency_key(client: Client, service: FakeService) -> None:
    service.on("POST", "/v1/jobs", DROPPED, fake_service.error(502), Reply(201, json=examples.job("queued")))
    assert client.jobs.create(config={}).status == "queued"
    keys = [request.headers["idempotency-key"] for request in service.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_two_submissions_have_two_keys_and_a_given_one_is_used(client: Client, service: FakeService) -> None:
    service.on("POST", "/v1/jobs", Reply(201, json=examples.job("queued")))
    client.jobs.create(config={})
    client.jobs.create(config={})
    client.jobs.create(config={}, idempotency_key="nightly-7")
    first, second, third = (request.headers["idempotency-key"] for request in service.requests)
    assert first != second
    assert third == "nightly-7"


def test_a_job_is_not_queued_again_twice(client: Client, service: FakeService) -> None:
    service.on("POST", "/v1/jobs/job-1/retry", DROPPED, JOB)
    with pytest.raises(finesmith.APIConnectionError):
        client.jobs.retry("job-1")
    assert len(service.requests) == 1


def test_nobody_at_the_address_is_a_connection_error(quick: RetryPolicy) -> None:
    service = FakeService()
    service.close()
    with Client(service.url, api_key="k", retry=quick) as client, pytest.raises(finesmith.APIConnectionError) as caught:
        client.jobs.get("job-1")
    assert not isinstance(caught.value, finesmith.APITimeoutError)


def test_silence_is_a_timeout(service: FakeService) -> None:
    def answer_late(_: object) -> Reply:
        time.sleep(0.5)
        return JOB

    service.on("GET", "/v1/jobs/job-1", answer_late)
    with (
        Client(service.url, api_key="k", timeout=0.1, retry=RetryPolicy(max_retries=0)) as client,
        pytest.raises(finesmith.APITimeoutError),
    ):
        client.jobs.get("job-1")


def test_a_redirect_is_not_followed_with_the_key(client: Client, service: FakeService) -> None:
    service.on("GET", "/v1/jobs/job-1", Reply(307, headers={"location": "http://elsewhere.example/"}))
    with pytest.raises(finesmith.UnexpectedResponseError, match=r"elsewhere\.example"):
        client.jobs.get("job-1")


@pytest.mark.parametrize("body", [b"<html>Welcome to nginx", b'"text"', b"[]"])
def test_an_answer_of_something_else_is_told_apart(client: Client, service: FakeService, body: bytes) -> None:
    service.on("GET", "/v1/jobs/job-1", Reply(body=body))
    with pytest.raises(finesmith.UnexpectedResponseError):
        client.jobs.get("job-1")


@pytest.mark.parametrize("job_id", ["", "..", "../files", "job-1/cancel", "job 1", "job-1?wait=3", "job%2f"])
def test_what_is_no_id_never_reaches_the_service(client: Client, service: FakeService, job_id: str) -> None:
    with pytest.raises(finesmith.ConfigurationError, match="is not an id"):
        client.jobs.get(job_id)
    assert service.requests == []


def test_the_installation_can_be_asked_what_it_can_do(client: Client, service: FakeService) -> None:
    data = {"datasets": ["chat", "general"], "collators": ["lm"], "optimizers": ["lion"]}
    worker = {"id": "wrk-1", "object": "worker", "host": "a", "slots": 2, "status": "online", "version": "1",
              "gpus": [{"index": 0, "name": "H200", "memory_bytes": 5}], "last_seen_at": 1.0}  # fmt: skip
    service.on("GET", "/v1/registries", Reply(json={"object": "registries", "data": data}))
    service.on("GET", "/v1/workers", fake_service.listing([worker]))
    service.on("GET", "/v1/config/schema", Reply(json={"properties": {"lora_rank": {}}}))
    registries = client.registries.get()
    assert (registries.datasets, registries.trainers) == (("chat", "general"), ())
    assert registries.extra == {"optimizers": ["lion"]}
    assert [worker.gpus[0].name for worker in client.workers.list()] == ["H200"]
    assert "lora_rank" in client.config_schema()["properties"]


@pytest.mark.parametrize(
    ("status_code", "status", "is_ready"), [(200, "ready", True), (200, "degraded", True), (503, "unavailable", False)]
)
def test_health_is_told_not_raised(
    client: Client, service: FakeService, status_code: int, status: str, is_ready: bool
) -> None:
    service.on("GET", "/readyz", Reply(status_code, json={"status": status, "checks": {"database": "ok"}}))
    health = client.health()
    assert (health.status, health.is_ready, health.checks) == (status, is_ready, {"database": "ok"})
    assert len(service.requests) == 1


def test_a_proxy_is_not_used_for_this_machine(
    service: FakeService, quick: RetryPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    service.on("GET", "/v1/jobs/job-1", JOB)
    with Client(service.url, api_key="k", retry=quick) as client:
        assert client.jobs.get("job-1").status == "running"
