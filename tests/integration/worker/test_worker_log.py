"""What a worker logs: JSON from its first line to its last, Celery's words and surprises included."""

import json

import pytest

from app.jobs.errors import LeaseLost

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


def read_log(worker) -> list[dict]:
    return [json.loads(line) for line in worker.log_path.read_text().splitlines()]


def test_every_line_of_a_worker_is_json_with_its_id_and_its_jobs(installation, until):
    worker = installation.start_worker()
    installation.valkey.kill()  # Celery has something to say
    installation.valkey.wait()
    until(lambda: any(line["logger"].startswith("celery") for line in read_log(worker)))
    installation.start_valkey()
    job_id = installation.submit({"train": {"sleep": 60}})
    installation.wait_asleep(job_id)
    installation.jobs.expire_leases_of(worker.id)
    until(lambda: any("no longer holds" in line["event"] for line in read_log(worker)))
    with pytest.raises(LeaseLost):
        installation.jobs.renew(job_id, 1)
    assert worker.terminate() == 0

    lines = read_log(worker)
    assert {line["worker_id"] for line in lines} == {worker.id}
    assert {"timestamp", "level", "logger", "event"} <= set.intersection(*(set(line) for line in lines))
    assert any("shutdown" in line["event"] for line in lines)
    mine = [line for line in lines if line.get("job_id") == job_id]
    assert ("attempt.started", 1) in [(line["event"], line.get("attempt")) for line in mine]
