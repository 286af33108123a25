"""Waiting for a job."""

import time

import finesmith
import pytest
from finesmith import Client, RetryPolicy

from tests.unit.client import examples, fake_service
from tests.unit.client.fake_service import DROPPED, FakeService, Reply

PATH = f"/v1/jobs/{examples.JOB_ID}"
RUNNING, SUCCEEDED = Reply(json=examples.job()), Reply(json=examples.job("succeeded"))
FAILURE = {"code": "cuda_out_of_memory", "message": "The GPU is full.", "param": "max_length", "step": "train"}


def test_waiting_ends_with_the_job_s_success(client: Client, service: FakeService) -> None:
    service.on("GET", PATH, RUNNING, RUNNING, SUCCEEDED)
    job = client.jobs.get(examples.JOB_ID).wait(progress=False)
    assert job.status == "succeeded"
    assert [request.query for request in service.requests] == [{}, {"wait": "20"}, {"wait": "20"}]


def test_a_failed_job_raises_its_error(client: Client, service: FakeService) -> None:
    service.on("GET", PATH, RUNNING, Reply(json=examples.job("failed", error=FAILURE)))
    with pytest.raises(finesmith.JobFailed, match="The GPU is full") as caught:
        client.jobs.get(examples.JOB_ID).wait(progress=False)
    assert caught.value.error is not None
    assert (caught.value.error.code, caught.value.error.param) == ("cuda_out_of_memory", "max_length")
    assert caught.value.job.refresh().status == "failed"


def test_a_cancelled_job_raises(client: Client, service: FakeService) -> None:
    service.on("GET", PATH, RUNNING, Reply(json=examples.job("cancelled")))
    with pytest.raises(finesmith.JobCancelled):
        client.jobs.wait(examples.JOB_ID, progress=False)


def test_time_over_raises_with_the_job_as_last_seen(client: Client, service: FakeService) -> None:
    service.on("GET", PATH, RUNNING)
    job = client.jobs.get(examples.JOB_ID)
    started = time.monotonic()
    with pytest.raises(finesmith.WaitTimeout, match="still running") as caught:
        job.wait(timeout=0.4, progress=False)
    assert 0.4 <= time.monotonic() - started < 2
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.job.progress.global_step == 12


def test_a_finished_job_is_not_asked_for_again(client: Client, service: FakeService) -> None:
    service.on("GET", PATH, SUCCEEDED)
    client.jobs.get(examples.JOB_ID).wait(timeout=0, progress=False)
    assert len(service.requests) == 1


def test_a_service_that_answers_at_once_is_not_flooded(client: Client, service: FakeService) -> None:
    service.on("GET", PATH, RUNNING)
    with pytest.raises(finesmith.WaitTimeout):
        client.jobs.wait(examples.JOB_ID, timeout=1, progress=False)
    assert len(service.requests) <= 7


def test_waiting_outlives_an_outage_longer_than_a_call_s_retries(client: Client, service: FakeService) -> None:
    service.on("GET", PATH, RUNNING, *[DROPPED, fake_service.error(503)] * 6, SUCCEEDED)
    assert client.jobs.get(examples.JOB_ID).wait(progress=False).status == "succeeded"
    assert len(service.requests) == 14


def test_failures_with_answers_between_them_are_no_outage(service: FakeService) -> None:
    impatient = RetryPolicy(initial_delay_seconds=0.01, max_delay_seconds=0.01, max_outage_seconds=0.3)
    service.on("GET", PATH, RUNNING, *[fake_service.error(503), RUNNING] * 3, fake_service.error(503), SUCCEEDED)
    with Client(service.url, api_key="k", retry=impatient) as client:
        assert client.jobs.get(examples.JOB_ID).wait(progress=False).status == "succeeded"


def test_waiting_gives_an_endless_outage_up(client: Client, service: FakeService) -> None:
    service.on("GET", PATH, RUNNING, fake_service.error(503, "Away."))
    job = client.jobs.get(examples.JOB_ID)
    started = time.monotonic()
    with pytest.raises(finesmith.InternalServerError, match="Away"):
        job.wait(progress=False)
    assert 1.0 <= time.monotonic() - started < 3


def test_the_timeout_holds_during_an_outage(service: FakeService) -> None:
    patient = RetryPolicy(initial_delay_seconds=30, max_delay_seconds=30)
    service.on("GET", PATH, RUNNING, fake_service.error(503))
    with Client(service.url, api_key="k", retry=patient) as client:
        job = client.jobs.get(examples.JOB_ID)
        started = time.monotonic()
        with pytest.raises(finesmith.WaitTimeout):
            job.wait(timeout=0.3, progress=False)
    assert time.monotonic() - started < 2


def test_a_job_that_is_gone_ends_the_wait(client: Client, service: FakeService) -> None:
    service.on("GET", PATH, RUNNING, fake_service.error(404, "No such job."))
    with pytest.raises(finesmith.NotFoundError):
        client.jobs.get(examples.JOB_ID).wait(progress=False)
