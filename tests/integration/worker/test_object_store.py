"""A job on two hosts that share nothing but database, Redis and an object store."""

from pathlib import Path

import pytest

from app.states import JobStatus
from tests.integration.worker.conftest import OWNER
from tests.support.object_store import ENVIRONMENT, run_object_store


@pytest.mark.slow
def test_a_job_whose_host_dies_is_finished_by_another_from_the_object_store(build_installation, tmp_path, until):
    with run_object_store() as url:
        installation = build_installation("s3", storage_url=f"{url}/installation")
        rows = installation.files.create(OWNER, "rows.jsonl", "fine-tune", [b'{"text": "a"}\n'])
        first_host, second_host = tmp_path / "first", tmp_path / "second"
        first = installation.start_worker(data_dir=first_host)
        job_id = installation.submit(
            {"train": {"checkpoint": 5, "lines": 3, "sleep_once": 600}},
            config={"dataset_key": "general"},
            training_file=rows.id,
        )
        installation.jobs.dispatch_ready()
        manifest = f"jobs/{job_id}/checkpoints/1/checkpoint-5.json"
        until(lambda: installation.storage.exists(manifest))
        asleep = first_host / "workspaces" / job_id / "asleep"
        until(lambda: asleep.exists() and asleep.read_text())
        environ = Path(f"/proc/{asleep.read_text()}/environ").read_bytes()
        assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"].encode() not in environ
        assert b"AWS_" not in environ
        first.kill()
        installation.jobs.expire_leases_of(first.id)

        second = installation.start_worker(data_dir=second_host)
        workspace = second_host / "workspaces" / job_id
        until(lambda: installation.jobs.dispatch_ready() or (workspace / "asleep").exists(), seconds=30)
        until(lambda: (workspace / "asleep").exists(), seconds=30)
        assert (workspace / "outputs" / "checkpoint-5" / "COMPLETE").exists()
        assert (workspace / "data" / "train.jsonl").read_text() == '{"text": "a"}\n'
        assert [event.step for event in installation.events(job_id, "step.skipped")] == ["prepare"]
        # It is asked to stop, saves its checkpoint, and goes on at the same host.
        assert second.terminate() == 0
        installation.start_worker(data_dir=second_host)
        until(lambda: installation.jobs.dispatch_ready() or installation.get(job_id).status is JobStatus.RUNNING)
        job = installation.wait(job_id)

        assert (job.status, job.failures) == (JobStatus.SUCCEEDED, 1)
        for artifact in installation.jobs.list_artifacts(OWNER, job_id):
            written = installation.storage.fetch_file(artifact.storage_key, tmp_path / "copy")
            assert (written.num_bytes, written.sha256) == (artifact.num_bytes, artifact.sha256)
        assert "line 2" in installation.log(job_id)
        installation.jobs.delete(OWNER, job_id)
        assert installation.storage.list(f"jobs/{job_id}") == []
