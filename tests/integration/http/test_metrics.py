"""What `/metrics` of a running server says, with the database and without."""

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.ids import new_id
from app.jobs.catalogue import Catalogue
from app.jobs.errors import LeaseLost
from app.jobs.workers import GpuInfo, GpuReading, WorkerInfo

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def metered(start_server):
    """A server whose metrics are open."""
    return start_server(metrics_public=True)


def read_samples(client) -> dict[tuple, float]:
    """Values by name and labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    samples = [sample for family in families for sample in family.samples]
    found = {(sample.name, *sorted(sample.labels.items())): sample.value for sample in samples}
    # A series that is told twice makes Prometheus refuse the whole page.
    assert len(found) == len(samples)
    return found


def test_the_installations_figures_come_from_the_database(metered):
    worker_id = new_id("wrk")
    with metered.make_client() as client:
        done = metered.start_job(client)
        done.finish()
        with pytest.raises(LeaseLost):
            done.emit("progress")
        running = metered.start_job(client, priority=5)
        metered.jobs.expire_leases_of(metered.worker_id)
        assert client.get(f"/v1/jobs/{running.id}").json()["status"] == "queued"
        gpus = (GpuInfo(0, "test GPU", 1 << 34), GpuInfo(1, "test GPU", 1 << 34))
        catalogue = Catalogue({}, {})  # no job goes there
        metered.workers.register(WorkerInfo(worker_id, "gpu-1", gpus, slots=2, version="0", catalogue=catalogue))
        metered.workers.heartbeat(worker_id, gpu_readings=[GpuReading(0, 1 << 33, 0.75)])
        listed = client.get("/v1/workers").json()["data"]
        samples = read_samples(client)
    gpu = next(worker for worker in listed if worker["id"] == worker_id)["gpus"]
    assert [(each["memory_used_bytes"], each["utilization"]) for each in gpu] == [(1 << 33, 0.75), (None, None)]
    labels = (("gpu", "0"), ("host", "gpu-1"), ("worker", worker_id))
    assert samples["finesmith_gpu_utilization_ratio", *labels] == 0.75
    assert samples["finesmith_gpu_memory_used_bytes", *labels] == 1 << 33
    assert samples["finesmith_gpu_memory_bytes", *labels] == 1 << 34
    assert samples["finesmith_jobs", ("status", "succeeded")] == 1
    assert samples["finesmith_attempts_total", ("outcome", "succeeded")] == 1
    assert samples["finesmith_attempts_total", ("outcome", "lost")] == 1
    assert samples["finesmith_lease_reclaims_total",] == 1
    assert samples["finesmith_fenced_writes_total",] == 1
    assert samples["finesmith_queue_wait_seconds_count", ("priority", "high")] == 1
    assert samples["finesmith_queue_wait_seconds_count", ("priority", "normal")] == 1
    assert samples["finesmith_queue_depth", ("priority", "high")] == 1
    assert samples["finesmith_dispatch_lag_seconds_count",] == 2
    assert samples["finesmith_workers", ("status", "online")] >= 1
    assert samples["finesmith_database_up",] == 1


def test_without_its_database_a_server_tells_what_it_knows_of_itself(start_server):
    server = start_server(metrics_public=True)
    with server.make_client() as client:
        with server.workers._sessions.writing() as connection:
            connection.exec_driver_sql("ALTER TABLE counters RENAME TO gone")
        samples = read_samples(client)
    assert samples["finesmith_database_up",] == 0
    assert ("finesmith_jobs", ("status", "queued")) not in samples
    assert any(name == "finesmith_http_requests_total" for name, *_ in samples)
    assert ("finesmith_event_loop_lag_seconds_count",) in samples


def list_metric_names(text: str) -> set[str]:
    """Every name that a query can use, by what the page declares."""
    names: set[str] = set()
    for name, kind in re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE):
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names |= {name + suffix for suffix in suffixes}
    return {name for name in names if not name.endswith("_created")}


def test_dashboard_alerts_and_page_speak_of_the_metrics_that_there_are(metered):
    with metered.make_client() as client:
        client.get("/v1/jobs")
        names = list_metric_names(client.get("/metrics").text)
    pattern = re.compile(r"\b(?:finesmith|process)_[a-z_]+\b")
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "finesmith.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "finesmith.rules.yml").read_text())
    queries += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    used = {name for query in queries for name in pattern.findall(query)}
    assert len(used) > 20
    assert used - names == set()

    page = (ROOT / "docs" / "observability.md").read_text()
    described = set(re.findall(r"^\| `(finesmith_[a-z_]+)`", page, re.MULTILINE))
    ours = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names if name.startswith("finesmith_")}
    assert described == ours
    # What is told of the installation is on the dashboard.
    assert ours - {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} == set()


def test_the_dashboard_can_be_imported_anywhere():
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "finesmith.json").read_text())
    assert dashboard["templating"]["list"][0]["type"] == "datasource"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    drawn = [panel for panel in panels if panel["type"] != "row"]
    sources = {panel["datasource"]["uid"] for panel in drawn}
    assert (
        sources == {target["datasource"]["uid"] for panel in drawn for target in panel["targets"]} == {"${datasource}"}
    )
    assert all(panel["title"] and panel["description"] for panel in drawn)
    cells = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(cells)) == len(cells)
    for panel in drawn:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
