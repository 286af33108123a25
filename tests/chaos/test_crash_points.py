"""A process dies at each named place, once; then the job must end as if nothing had been."""

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.db.models import jobs
from app.db.session import snapshot
from tests.chaos.client import FINAL
from tests.chaos.crash_points import CRASH_POINTS, CrashControl, CrashPoint
from tests.chaos.oracle import find_orphans, judge_job, list_resumptions, read_job, read_journal_by_job
from tests.chaos.plant import Plant, PlantOptions, run_plant, wait_until
from tests.chaos.stub_step import Orders
from trainer_core.watchdog import find_descendants

pytestmark = pytest.mark.timeout(180)
DATABASES = ("sqlite", pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.slow]))


class CrashPlant:
    """An installation that knows the places; whatever dies in it is started again."""

    def __init__(self, plant: Plant, control: CrashControl) -> None:
        self.plant, self.control = plant, control
        self.num_submitted = 0
        """Idempotency keys that were used."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tend, daemon=True)
        self._thread.start()

    def _tend(self) -> None:
        while not self._stop.wait(0.05):
            self.plant.restart_dead()

    def show(self) -> str:
        """The end of every log, for whoever looks for a reason."""
        texts = [(path.name, path.read_text(errors="replace")) for path in sorted(self.plant.folder.glob("*.log"))]
        return "\n".join(f"--- {name}\n{text[-3000:]}" for name, text in texts)

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def submit(self, **orders: Any) -> str:
        """Insists until it has a 201; returns the job's id."""
        text = Orders(str(self.plant.journal), **{"num_steps": 6, "save_every": 2, **orders}).to_text()
        config = {"model_name_or_path": "owner/name", "dataset_key": "soda", "apply_lora": True}
        body = {
            "config": {**config, "collator_separator": text, "huggingface_hub_token": "hf_" + "s" * 34},
            "steps": ["prepare", "train", "fuse"],
            "max_attempts": 10,
        }
        self.num_submitted += 1
        key = f"job-{self.num_submitted}"
        answer = self.plant.client.insist("POST", "/v1/jobs", body=body, idempotency_key=key)
        assert answer.status == 201, answer.body
        return str(answer.body["id"])

    def wait(self, job_id: str) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            job = self.plant.client.insist("GET", f"/v1/jobs/{job_id}").body
            return job if job["status"] in FINAL else None

        try:
            return wait_until(ended, seconds=60, pause_seconds=0.1)
        except AssertionError:
            print(read_job(self.plant, job_id), self.show())
            raise


@pytest.fixture(scope="module", params=DATABASES)
def crashing(request: pytest.FixtureRequest) -> Iterator[CrashPlant]:
    folder = Path(tempfile.mkdtemp(prefix="fs-cp-"))
    control = CrashControl(folder / "points")
    options = PlantOptions(database=request.param, lease_seconds=2.5, python_path=control.python_path)
    with run_plant(options) as plant:
        running = CrashPlant(plant, control)
        yield running
        running.stop()
    shutil.rmtree(folder)


def run_job(crashing: CrashPlant, point: CrashPoint) -> str:
    crashing.control.arm(point)
    return crashing.submit()


def run_job_of_lost_worker(crashing: CrashPlant, point: CrashPoint) -> str:
    """The supervisor dies in mid-training, so that the reconciler has a lease to take back."""
    job_id = crashing.submit(step_seconds=0.3)
    journal = crashing.plant.journal
    wait_until(lambda: any(e.act == "trained" for e in read_journal_by_job(journal).get(job_id, [])))
    crashing.control.arm(point)
    crashing.plant.workers[0].kill()
    return job_id


def run_cancel(crashing: CrashPlant, point: CrashPoint) -> str:
    job_id = crashing.submit(step_seconds=0.5)
    crashing.control.arm(point)
    assert crashing.plant.client.insist("POST", f"/v1/jobs/{job_id}/cancel").status == 200
    return job_id


SCENES: dict[str, Callable[[CrashPlant, CrashPoint], str]] = {
    "job": run_job,
    "lost worker": run_job_of_lost_worker,
    "cancel": run_cancel,
}


def name_point(point: CrashPoint) -> Any:
    return pytest.param(point, id=point.name, marks=[] if point.is_quick else [pytest.mark.slow])


@pytest.mark.parametrize("point", [name_point(point) for point in CRASH_POINTS if point.scene in SCENES])
def test_a_job_survives_a_crash_there(crashing: CrashPlant, point: CrashPoint) -> None:
    job_id = SCENES[point.scene](crashing, point)

    job = crashing.wait(job_id)

    assert not crashing.control.is_armed(point), "nobody came by"
    assert job["status"] == ("cancelled" if point.scene == "cancel" else "succeeded")
    wait_until(lambda: not find_trainers(crashing.plant), seconds=5)
    assert judge_job(crashing.plant, job_id) == []
    record = read_job(crashing.plant, job_id)
    assert record is not None
    for step in ("prepare", "train", "fuse"):
        # On one host a step's marker is on the disk before the service hears that it has finished.
        assert sum(event.type == "step.finished" and event.step == step for event in record.events) <= 1
    entries = read_journal_by_job(crashing.plant.journal).get(job_id, [])
    assert all(found.num_lost <= found.save_every for found in list_resumptions(record, entries))
    with snapshot(crashing.plant.sessions) as connection:
        num_jobs = connection.execute(select(func.count()).select_from(jobs)).scalar_one()
    assert num_jobs == crashing.num_submitted, "a submission that was sent twice made two jobs"


@pytest.mark.slow
@pytest.mark.parametrize("point", [name_point(point) for point in CRASH_POINTS if point.scene == "preview"])
def test_a_preview_survives_a_crash_there(crashing: CrashPlant, point: CrashPoint) -> None:
    """Its lease of 30 s is the same for every installation."""
    client = crashing.plant.client
    file_id = client.upload(b'{"text": "a"}\n')
    [worker] = crashing.plant.workers
    num_starts = worker.num_starts
    crashing.control.arm(point)
    config = {"model_name_or_path": "owner/name"}

    answer = client.insist("POST", "/v1/previews", body={"config": config, "file": file_id, "n": 1})
    assert answer.status == 202, answer.body
    path = f"/v1/previews/{answer.body['id']}"
    wait_until(lambda: client.insist("GET", path).body["status"] in FINAL, seconds=90, pause_seconds=0.2)

    assert not crashing.control.is_armed(point), "nobody came by"
    assert worker.num_starts > num_starts
    assert client.insist("GET", path).body["status"] == "succeeded"


def find_trainers(plant: Plant) -> list[str]:
    """Processes of jobs, wherever they hang."""
    running = [part.pid for part in plant.parts if part.is_running]
    return [found for pid in running for found in find_orphans(find_descendants(pid), below=pid)]
