"""A canary token, given in a config or by name, is found nowhere after whole jobs: not even where a step printed it."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import redis

from app.keys.service import KeyService
from app.server import bind_listener
from tests.integration.worker.conftest import OWNER, REPOSITORY, Installation

pytestmark = pytest.mark.timeout(120)
INLINE = "canary-inline-4f1c8a7e2b9d"
NAMED = "canary-named-8e2d5c6b1a3f"
CANARIES = (INLINE.encode(), NAMED.encode())
JOB = {"steps": ["prepare", "train"]}
CONFIG = {"model_name_or_path": "owner/name", "apply_lora": True, "dataset_key": "soda"}
ORDERS = '{"prepare": {"leak": true}, "train": {"leak": true, "lines": 2, "checkpoint": 3}}'
STUBS = "-m tests.integration.worker.stub_worker --stub-previews"


class ProcessWatch:
    """Reads the command lines and environments of all processes all the time: what others on the host can see."""

    def __init__(self) -> None:
        self.found: set[str] = set()
        self.num_rounds = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "ProcessWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            for path in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
                try:
                    content = path.read_bytes()
                except OSError:
                    continue
                if any(canary in content for canary in CANARIES):
                    self.found.add(f"{path}: {content[:80]!r}")
            self.num_rounds += 1


@contextmanager
def serve(installation: Installation) -> Iterator[httpx2.Client]:
    """The real HTTP server on the installation, logging everything, and a client with an admin's key of its owner."""
    settings = installation.settings
    _, key = KeyService(installation.sessions, settings).create(OWNER, "canary", ("admin",))
    environment = {
        "FINESMITH_DATA_DIR": str(settings.data_dir),
        "FINESMITH_SECRET_KEY": settings.secret_key.get_secret_value(),
        "FINESMITH_LOG_LEVEL": "DEBUG",
        "PYTHONPATH": str(REPOSITORY),
    }
    with bind_listener("127.0.0.1", 0) as listener, (settings.data_dir / "api.log").open("wb") as log:
        argv = [sys.executable, "-m", "app.cli", "api", "--listen-fd", str(listener.fileno())]
        process = subprocess.Popen(
            argv, env={**os.environ, **environment}, pass_fds=[listener.fileno()], stdout=log, stderr=log
        )
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    installation.processes.append(process)
    with httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client


def submit(client: httpx2.Client, token: str) -> str:
    config = {**CONFIG, "collator_separator": ORDERS, "huggingface_hub_token": token, "wandb_api_key": token}
    answer = client.post("/v1/jobs", json={**JOB, "config": config}, headers={"idempotency-key": f"k-{len(token)}"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def read_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Everything on the disk: database and its log of writes, storage, workspaces, logs of servers and workers."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder)), path.read_bytes()


def read_redis(installation: Installation) -> Iterator[tuple[str, bytes]]:
    client = redis.Redis(unix_socket_path=str(installation.settings.valkey_socket))
    try:
        for key in client.scan_iter(count=1000):
            is_stream = client.type(key) == b"stream"
            yield repr(key), repr(client.xrange(key)).encode() if is_stream else bytes(client.dump(key) or b"")
    finally:
        client.close()


def read_answers(client: httpx2.Client, **names: str) -> Iterator[tuple[str, bytes]]:
    """The answer of every GET that the document names, as JSON and as a stream."""
    for path, item in client.get("/openapi.json").json()["paths"].items():
        if "get" not in item:
            continue
        for accept in ("application/json", "text/event-stream"):
            answer = client.get(path.format_map(_Names(names)), headers={"accept": accept})
            yield f"GET {path} {accept} {answer.status_code}", answer.content + repr(answer.headers).encode()


class _Names(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "unknown"


def test_a_canary_is_found_nowhere_after_whole_jobs(installation: Installation) -> None:
    with ProcessWatch() as watch, serve(installation) as client:
        worker = installation.start_worker(program=STUBS)
        assert client.put("/v1/secrets/canary", json={"value": NAMED}).status_code == 200
        job_ids = [submit(client, INLINE), submit(client, "secret:canary")]
        file_id = client.post("/v1/files", files={"file": ("a.jsonl", b'{"text": "a"}\n')}).json()["id"]
        for token in (INLINE, "secret:canary"):
            config = {"model_name_or_path": "owner/name", "huggingface_hub_token": token}
            preview_id = client.post("/v1/previews", json={"config": config, "file": file_id, "n": 1}).json()["id"]
            assert client.get(f"/v1/previews/{preview_id}?wait=30").json()["status"] == "succeeded"
        # Refused requests hold it too, and must not repeat it.
        refused = client.post("/v1/jobs", json={"config": {**CONFIG, "wandb_api_key": [INLINE], "nope": NAMED}})
        assert refused.status_code == 422

        for job_id, token in zip(job_ids, (INLINE, NAMED), strict=True):
            job = installation.wait(job_id, seconds=60)
            assert job.error is not None
            assert (job.error.code, job.error.step) == ("user_code", "train")
            # The step had the token, and printed it.
            log = "\n".join(installation.log(job_id))
            assert hashlib.sha256(token.encode()).hexdigest() in log
            assert "token [redacted]" in log
        config = client.get(f"/v1/jobs/{job_ids[0]}").json()["config"]
        assert (config["huggingface_hub_token"], config["wandb_api_key"]) == (None, None)
        config = client.get(f"/v1/jobs/{job_ids[1]}").json()["config"]
        assert (config["huggingface_hub_token"], config["wandb_api_key"]) == ("secret:canary", "secret:canary")

        kept = [("POST /v1/jobs", refused.content), *read_redis(installation)]
        for job_id in job_ids:
            names = {"job_id": job_id, "preview_id": preview_id, "name": "canary", "file_id": file_id}
            kept += read_answers(client, path="data/train.jsonl", **names)
        worker.terminate()
        kept += read_files(installation.settings.data_dir)

    assert any(name == "finesmith.db-wal" for name, _ in kept)
    assert any("events" in name for name, content in kept if b"[redacted]" in content)
    assert [name for name, content in kept if any(canary in content for canary in CANARIES)] == []
    assert watch.found == set()
    assert watch.num_rounds > 3
    assert not list((installation.settings.data_dir / "workspaces").glob("job-*"))
