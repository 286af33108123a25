"""One owner with very many jobs and events: how long do lists take?"""

import json
import time
from http.client import HTTPConnection

from sqlalchemy import insert, select, text

from app.db.models import events, jobs
from app.db.session import snapshot, transaction
from app.ids import new_id
from bench.load_service import JOB, Loaded, Measured, percentile

_STATUSES = ["succeeded"] * 70 + ["failed"] * 20 + ["cancelled"] * 9 + ["queued"]
_ROWS_A_STATEMENT = 5_000
_GOAL_SECONDS = 0.1


def fill(loaded: Loaded, *, num_jobs: int, num_events: int) -> None:
    """Writes copies of a job that was submitted, each with its share of the events, straight into the database."""
    job_id = loaded.service.call("POST", "/v1/jobs", body=JOB)["id"]
    with snapshot(loaded.sessions) as connection:
        template = dict(connection.execute(select(jobs).where(jobs.c.id == job_id)).one()._mapping)
    share, now = num_events // num_jobs, time.time()
    rows, told = [], []
    for number in range(num_jobs):
        new = {
            "id": new_id("job"),
            "status": _STATUSES[number % len(_STATUSES)],
            "last_seq": share,
            "name": f"{number}",
        }
        rows.append({**template, **new, "created_at": now, "dispatched_at": now})
        told += [build_event(new["id"], seq, now) for seq in range(1, share + 1)]
    with transaction(loaded.sessions) as connection:
        for table, values in ((jobs, rows), (events, told)):
            for start in range(0, len(values), _ROWS_A_STATEMENT):
                connection.execute(insert(table), values[start : start + _ROWS_A_STATEMENT])
        # As a database that has held them for a while has done by itself.
        connection.execute(text("ANALYZE"))


def build_event(job_id: object, seq: int, now: float) -> dict[str, object]:
    """A row as training writes it."""
    data = {"loss": 1.234, "global_step": seq, "learning_rate": 2e-4, "tokens_per_second": 1234.5}
    values = {"job_id": job_id, "seq": seq, "attempt": 1, "type": "metrics", "step": "train", "level": "info"}
    return {**values, "message": "", "data": data, "created_at": now}


def measure_lists(loaded: Loaded, *, database: str, num_event_lists: int = 200) -> list[Measured]:
    """Every page of the list of jobs, also of those in one state, and events of jobs all over the list."""
    found: list[Measured] = []
    all_ids: list[str] = []
    for query in (
        "limit=100",
        "limit=20",
        "limit=100&status=failed",
        "limit=100&status=queued",
        "limit=100&status=paused",
    ):
        seconds, ids = walk(loaded, query)
        all_ids = all_ids or ids
        found.append(held(f"{database}: GET /v1/jobs?{query}", seconds))
    for tail in ("events?limit=100", "metrics?limit=100", "events?after=20&limit=1000"):
        step = max(len(all_ids) // num_event_lists, 1)
        seconds = [ask(loaded, f"/v1/jobs/{job_id}/{tail}")[0] for job_id in all_ids[::step]]
        found.append(held(f"{database}: GET /v1/jobs/{{id}}/{tail}", seconds))
    found.append(held(f"{database}: GET /v1/jobs/{{id}}", [ask(loaded, f"/v1/jobs/{i}")[0] for i in all_ids[::step]]))
    return found


def held(name: str, seconds: list[float]) -> Measured:
    """The 95th percentile against the goal."""
    value = percentile(seconds, 95) if len(seconds) > 1 else seconds[0]
    return Measured(f"{name}, p95", value, "s", most=_GOAL_SECONDS, num_samples=len(seconds))


def walk(loaded: Loaded, query: str) -> tuple[list[float], list[str]]:
    """All pages of the list, one after the other: their times and the ids."""
    seconds: list[float] = []
    ids: list[str] = []
    while True:
        after = f"&after={ids[-1]}" if ids else ""
        took, page = ask(loaded, f"/v1/jobs?{query}{after}")
        seconds.append(took)
        ids += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            return seconds, ids


_connections: dict[int, HTTPConnection] = {}


def ask(loaded: Loaded, path: str) -> tuple[float, dict]:
    """One call on a connection that stays open; how long the whole answer took, and its JSON."""
    connection = _connections.setdefault(loaded.service.port, loaded.service.connect())
    started = time.perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {loaded.service.key}"})
    answer = connection.getresponse()
    content = answer.read()
    took = time.perf_counter() - started
    assert answer.status == 200, content[:300]
    return took, json.loads(content)
