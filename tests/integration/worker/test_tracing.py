"""One trace from a request through the worker to the environment of a step, and the worker's log beside it."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest

from app.keys.service import KeyService
from app.server import bind_listener
from tests.support.otlp_receiver import run_receiver
from trainer_core.enums import Step
from trainer_core.trace_context import derive_step_traceparent

pytestmark = pytest.mark.timeout(120)
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER_SPAN = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE_ID}-{CALLER_SPAN}-01"
TOKEN = "hf_" + "t" * 34


@contextmanager
def run_api(installation) -> Iterator[httpx2.Client]:
    """A server on the installation's database, with a client of its owner."""
    environment = installation.build_environment()
    with bind_listener("127.0.0.1", 0) as listener, (installation.settings.data_dir / "api.log").open("wb") as log:
        argv = [sys.executable, "-m", "app.cli", "api", "--listen-fd", str(listener.fileno())]
        process = subprocess.Popen(argv, env=environment, pass_fds=[listener.fileno()], stdout=log, stderr=log)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        _, key = KeyService(installation.sessions, installation.settings).create("owner", "test", ("jobs",))
        with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
            yield client
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    finally:
        process.kill()
        process.wait()


def submit(client: httpx2.Client, orders: dict[str, dict], **headers: str) -> str:
    config = {"dataset_key": "soda", "apply_lora": True, "model_name_or_path": "owner/name"}
    config |= {"collator_separator": json.dumps(orders), "huggingface_hub_token": TOKEN}
    body = {"config": config, "steps": ["prepare", "train"], "max_attempts": 1}
    answer = client.post("/v1/jobs", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def read_log(path) -> list[dict]:
    """Every line of a log is one JSON object, or this raises."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_trace_leads_from_the_request_to_the_steps_environment(installation, monkeypatch):
    with run_receiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        worker = installation.start_worker()
        with run_api(installation) as client:
            orders = {"train": {"variable": "TRACEPARENT", "fail": "value"}}
            job_id = submit(client, orders, traceparent=TRACEPARENT)
            installation.wait(job_id)
        spans = receiver.wait_for(
            "POST /v1/jobs", "job.claim", "job.attempt", "job.stage", "step.prepare", "step.train"
        )
        assert worker.terminate() == 0

    mine = {span.name: span for span in spans if span.trace_id == TRACE_ID}
    request, attempt, train = mine["POST /v1/jobs"], mine["job.attempt"], mine["step.train"]
    assert (request.service, attempt.service) == ("finesmith-server", "finesmith-worker")
    assert request.parent_id == CALLER_SPAN
    assert mine["job.claim"].parent_id == attempt.parent_id == request.span_id
    assert train.parent_id == mine["step.prepare"].parent_id == mine["job.stage"].parent_id == attempt.span_id
    assert attempt.attributes["finesmith.job.id"] == job_id
    assert attempt.attributes["finesmith.outcome"] == "failed"
    assert (mine["step.prepare"].is_error, train.is_error, attempt.is_error) == (False, True, True)
    seen = [line for line in installation.log(job_id) if line.startswith("TRACEPARENT")]
    assert seen == [f"TRACEPARENT 00-{TRACE_ID}-{train.span_id}-01"]
    assert derive_step_traceparent(f"00-{TRACE_ID}-{attempt.span_id}-01", Step.TRAIN).split("-")[2] == train.span_id

    lines = [line for line in read_log(worker.log_path) if line.get("job_id") == job_id]
    assert [line["event"] for line in lines] == ["attempt.started", "attempt.ended"]
    assert {line["worker_id"] for line in read_log(worker.log_path)} == {worker.id}
    assert {line["trace_id"] for line in lines if line.get("attempt") == 1} == {TRACE_ID}
    assert TOKEN not in worker.log_path.read_text()


@pytest.mark.slow
def test_without_a_collector_a_step_gets_the_callers_trace_as_it_came(shared):
    """Nothing makes spans, and users' code can go on with the trace all the same."""
    with run_api(shared) as client:
        job_id = submit(client, {"prepare": {"variable": "TRACEPARENT"}}, traceparent=TRACEPARENT)
        other = submit(client, {"prepare": {"variable": "TRACEPARENT"}}, traceparent="00-no-trace")
        shared.wait(job_id)
        shared.wait(other)
    assert f"TRACEPARENT {TRACEPARENT}" in shared.log(job_id)
    assert "TRACEPARENT None" in shared.log(other)
