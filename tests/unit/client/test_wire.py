"""Answers of other versions of the service are read as far as they go."""

import pytest
from finesmith import Artifact, Event, Job, JobProgress, JobStep, UnexpectedResponseError
from finesmith.wire import decode

from tests.unit.client import examples


def test_a_job_is_read_whole() -> None:
    job = decode(Job, examples.job("failed", error={"code": "invalid_data", "message": "Bad.", "step": "prepare"}))
    assert (job.id, job.status, job.step, job.attempt) == (examples.JOB_ID, "failed", "train", 1)
    assert job.steps[1] == JobStep("train", status="running", started_at=3.0)
    assert job.progress == JobProgress(12, 50, 0.24, 2.5, 1234.5, 65.0)
    assert job.error is not None
    assert (job.error.code, job.error.step, job.error.param) == ("invalid_data", "prepare", None)
    assert (job.resources.gpus, job.metadata) == (1, {"team": "a"})
    assert job.extra == {}


def test_unknown_fields_are_kept() -> None:
    value = examples.job(cost={"euros": 3}, webhook=None)
    value["progress"] = {"global_step": 1, "grad_norm": 0.5}
    job = decode(Job, value)
    assert job.extra == {"cost": {"euros": 3}, "webhook": None}
    assert job.progress.global_step == 1


def test_unknown_words_pass_through() -> None:
    assert decode(Job, examples.job("resting")).status == "resting"


def test_missing_and_null_fields_take_their_defaults() -> None:
    job = decode(Job, {"id": "job-1", "status": "queued", "progress": None, "steps": None})
    assert (job.progress, job.steps, job.metadata, job.error) == (JobProgress(), (), {}, None)


@pytest.mark.parametrize(
    ("model", "value"),
    [
        (Job, {"status": "queued"}),  # no id
        (Job, ["a list"]),
        (Job, None),
        (Job, examples.job(steps="prepare")),
        (Job, examples.job(steps=["prepare"])),
        (Artifact, {"path": "fused/a", "bytes": 3}),  # no sha256, so nothing could be checked
        (Event, "text"),
    ],
)
def test_an_answer_that_cannot_be_used_is_an_error_of_the_tree(model: type[object], value: object) -> None:
    with pytest.raises(UnexpectedResponseError):
        decode(model, value)
