"""Jobs for tests on an installation: submitted, followed and looked into."""

from typing import Any

from tests.chaos.client import FINAL, Answer
from tests.chaos.journal import Entry
from tests.chaos.oracle import read_journal_by_job
from tests.chaos.plant import Plant, wait_until
from tests.chaos.stub_step import Orders

STEPS = ("prepare", "train", "fuse")


def build_body(plant: Plant, *, num_gpus: int = 1, max_attempts: int = 20, **orders: Any) -> dict[str, Any]:
    """A submission; `orders` as `Orders` names them."""
    text = Orders(str(plant.journal), **{"num_steps": 6, "save_every": 2, **orders}).to_text()
    config = {"model_name_or_path": "owner/name", "dataset_key": "soda", "apply_lora": True}
    return {
        "config": {**config, "collator_separator": text, "huggingface_hub_token": "hf_" + "s" * 34},
        "steps": list(STEPS),
        "resources": {"gpus": num_gpus},
        "max_attempts": max_attempts,
    }


def submit(plant: Plant, **options: Any) -> str:
    """One try; returns the job's id."""
    answer: Answer = plant.client.call("POST", "/v1/jobs", body=build_body(plant, **options))
    assert answer.status == 201, answer.body
    return str(answer.body["id"])


def read_acts(plant: Plant, job_id: str) -> list[Entry]:
    """What the job's steps did so far."""
    return read_journal_by_job(plant.journal).get(job_id, [])


def wait_training(plant: Plant, job_id: str, *, number: int = 1, seconds: float = 60.0) -> None:
    """Returns once the job has trained so many steps."""
    wait_until(
        lambda: any(entry.act == "trained" and entry.number >= number for entry in read_acts(plant, job_id)),
        seconds=seconds,
    )


def wait_ended(plant: Plant, job_id: str, *, seconds: float = 90.0) -> dict[str, Any]:
    """The job once it has ended."""

    def find_ended() -> dict[str, Any] | None:
        job = plant.client.insist("GET", f"/v1/jobs/{job_id}").body
        return job if job["status"] in FINAL else None

    return wait_until(find_ended, seconds=seconds, pause_seconds=0.1)
