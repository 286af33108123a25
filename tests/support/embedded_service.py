"""`finesmith-server up` in a process of its own, with a client that holds its key."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

START_LINE = "ready: "
FINAL = ("succeeded", "failed", "cancelled")


@contextmanager
def run_embedded(
    data_dir: Path, *, environment: Mapping[str, str], config_key: str = "base"
) -> Iterator[httpx2.Client]:
    """Starts it, waits until it is ready and a worker has announced the Config, and kills it in the end."""
    argv = [sys.executable, "-m", "app.cli", "up", "--port", "0"]
    settings = {**os.environ, "FINESMITH_DATA_DIR": str(data_dir), **environment}
    with (data_dir / "up.log").open("w") as log:
        process = subprocess.Popen(argv, env=settings, stderr=subprocess.PIPE, stdout=log, text=True)
    assert process.stderr is not None
    try:
        url = _read_url(process.stderr)
        key = (data_dir / "api_key").read_text().strip()
        with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
            _wait_for_config(client, config_key)
            yield client
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def run_job(client: httpx2.Client, body: Mapping[str, Any], *, timeout_seconds: float) -> dict[str, Any]:
    """Submits a job and waits for its end; the job as it is then, with its events as `events`."""
    answer = client.post("/v1/jobs", json=body)
    assert answer.status_code == 201, answer.text
    job = answer.json()
    deadline = time.monotonic() + timeout_seconds
    while job["status"] not in FINAL and time.monotonic() < deadline:
        job = client.get(f"/v1/jobs/{job['id']}", params={"wait": 10}).json()
    events = client.get(f"/v1/jobs/{job['id']}/events", params={"limit": 1000}).json()["data"]
    return job | {"events": events}


def _read_url(lines: Iterable[str]) -> str:
    said = []
    for line in lines:
        if START_LINE in line:
            return line.split(START_LINE)[1].split()[0]
        said.append(line)
    raise AssertionError("it ended without getting ready:\n" + "".join(said))


def _wait_for_config(client: httpx2.Client, key: str) -> None:
    """What a worker has announced reaches the service's answers a little later."""
    deadline = time.monotonic() + 60
    while not client.get("/v1/workers").json()["data"] or key not in _get_configs(client):
        assert time.monotonic() < deadline, f"no worker announced the Config {key!r}"
        time.sleep(0.05)


def _get_configs(client: httpx2.Client) -> list[str]:
    configs: list[str] = client.get("/v1/registries").json()["data"]["configs"]
    return configs
