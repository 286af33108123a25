"""What attempts publish and later ones restore: verified, and out of the reach of an attempt that lost its job."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.bus import Bus
from app.jobs.commands import Outcome
from app.jobs.errors import LeaseLost
from app.jobs.views import Claim
from app.storage import Storage
from tests.support.installation import OWNER, CoreInstallation
from trainer_core.attempt.markers import write_marker
from trainer_core.checkpoints import mark_complete
from trainer_core.context import ArtifactFolder, StepResult
from trainer_core.enums import Step
from trainer_core.job_spec import JobSpec, StepInputs
from trainer_core.workspace import Workspace
from worker.publishing import ArtifactDamaged, Publisher
from worker.restoring import AttemptRestorer
from worker.services import Services
from worker.staging import InputDamagedError, InputStager
from worker.stored_checkpoints import list_stored_checkpoints


class Host:
    """One attempt at the job on a host of its own."""

    def __init__(self, core: CoreInstallation, folder: Path, claim: Claim) -> None:
        self.core, self.claim = core, claim
        self.workspace = Workspace(folder / f"host-{claim.attempt}")
        self.workspace.root.mkdir()
        services = Services(
            settings=core.settings,
            jobs=core.jobs,
            storage=core.storage,
            bus=Bus(f"unix://{folder}/none.sock"),
        )
        self.publisher = Publisher(
            self.workspace, services=services, job_id=claim.job_id, owner=OWNER, attempt=claim.attempt
        )
        self.warnings: list[str] = []
        self.spec = JobSpec(
            job_id=claim.job_id,
            attempt=claim.attempt,
            config={},
            steps=(Step.PREPARE, Step.TRAIN),
            inputs=StepInputs(),
        )

    def prepare(self, rows: str) -> None:
        """As the step prepare leaves it."""
        path = self.workspace.train_data
        path.parent.mkdir(exist_ok=True)
        path.write_text(rows)
        self.mark(Step.PREPARE, ArtifactFolder("data", path.parent, (path.name,)))

    def train(self, weights: str) -> None:
        """As the step train leaves it."""
        self.workspace.outputs.mkdir(exist_ok=True)
        (self.workspace.outputs / "adapter_model.safetensors").write_text(weights)
        self.mark(Step.TRAIN, ArtifactFolder.of_files_in(self.workspace.outputs, name="adapter"))

    def mark(self, step: Step, folder: ArtifactFolder) -> None:
        self.workspace.marker(step).parent.mkdir(exist_ok=True)
        write_marker(self.workspace, spec=self.spec, step=step, result=StepResult((folder,)))

    def save_checkpoint(self, step: int) -> None:
        """A checkpoint that is published."""
        folder = self.workspace.outputs / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"step": step, "by": self.claim.attempt}))
        mark_complete(folder)
        self.publisher.publish_checkpoint(folder)

    def restore(self) -> None:
        """What a new attempt does first."""
        AttemptRestorer(
            self.spec,
            workspace=self.workspace,
            storage=self.core.storage,
            check=lambda: None,
            warn=self.warnings.append,
        ).restore()

    def checkpoints(self) -> list[str]:
        return sorted(path.name for path in self.workspace.outputs.glob("*checkpoint-*"))


@pytest.fixture
def begin(core: CoreInstallation, tmp_path: Path) -> Callable[[], Host]:
    """Begins the next attempt at one job: the lease of the one before is over."""
    core.add_worker(slots=10)
    job = core.submit(max_attempts=9)

    def claim() -> Host:
        core.expire_lease(job.id)
        core.jobs.reclaim_expired()
        make_claimable(core, job.id)
        found = core.jobs.claim(job.id, "wrk-1")
        assert found is not None
        return Host(core, tmp_path, found)

    return claim


def make_claimable(core: CoreInstallation, job_id: str) -> None:
    """Ends the pause after a failure, if there is one."""
    from sqlalchemy import update

    from app.db.models import jobs
    from app.db.session import transaction

    with transaction(core.sessions) as connection:
        connection.execute(update(jobs).where(jobs.c.id == job_id).values(not_before=None, worker_id=None))


def read_artifact(core: CoreInstallation, job_id: str, path: str) -> bytes:
    return core.storage.read(core.jobs.get_artifact(OWNER, job_id, path).storage_key)


def damage(storage: Storage, key: str) -> None:
    """Another content of the same length, as a failing disk leaves it."""
    content = storage.read(key)
    storage.write(key, [bytes([content[0] ^ 1]) + content[1:]])


def test_a_step_that_was_published_is_restored_elsewhere_and_not_published_again(
    core: CoreInstallation, begin: Callable[[], Host]
) -> None:
    first = begin()
    first.prepare("rows\n")
    first.publisher.publish_step(Step.PREPARE)
    second = begin()
    second.restore()
    assert second.workspace.train_data.read_text() == "rows\n"
    before = core.storage.list("jobs")
    second.publisher.publish_step(Step.PREPARE)
    assert core.storage.list("jobs") == before
    assert second.warnings == []


def test_an_attempt_that_lost_the_job_cannot_change_what_the_winner_published(
    core: CoreInstallation, begin: Callable[[], Host]
) -> None:
    stale = begin()
    stale.prepare("stale\n")
    winner = begin()
    winner.prepare("winner\n")
    winner.save_checkpoint(10)
    winner.publisher.publish_step(Step.PREPARE)
    with pytest.raises(LeaseLost):
        stale.publisher.publish_step(Step.PREPARE)
    stale.save_checkpoint(3)
    stale.save_checkpoint(4)
    stale.save_checkpoint(5)
    assert read_artifact(core, winner.claim.job_id, "data/train.jsonl") == b"winner\n"
    next_one = begin()
    next_one.restore()
    assert next_one.workspace.train_data.read_text() == "winner\n"
    assert next_one.checkpoints() == ["checkpoint-10"]
    assert next_one.warnings == []


def test_the_row_is_the_truth_where_an_attempt_died_before_its_marker(
    core: CoreInstallation, begin: Callable[[], Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begin()
    first.prepare("first\n")
    first.publisher.publish_step(Step.PREPARE)
    second = begin()
    second.prepare("second\n")

    class Died(Exception):
        pass

    put_file = core.storage.put_file

    def put_no_marker(local: Path, key: str, **expected: object) -> object:
        if "/steps/" in key:
            raise Died
        return put_file(local, key, **expected)

    with monkeypatch.context() as patch:
        # A process that is killed between the commit of its rows and its marker.
        patch.setattr(core.storage, "put_file", put_no_marker)
        with pytest.raises(Died):
            second.publisher.publish_step(Step.PREPARE)
    third = begin()
    third.restore()
    third.publisher.publish_step(Step.PREPARE)
    restored = third.workspace.train_data.read_bytes()
    assert read_artifact(core, third.claim.job_id, "data/train.jsonl") == restored


def test_a_file_that_changed_after_its_step_is_not_published_and_the_step_runs_again(
    core: CoreInstallation, begin: Callable[[], Host]
) -> None:
    host = begin()
    host.prepare("rows\n")
    host.workspace.train_data.write_text("r0ws\n")
    with pytest.raises(ArtifactDamaged, match=r"data/train\.jsonl is no longer what the step prepare wrote"):
        host.publisher.publish_step(Step.PREPARE)
    assert core.jobs.list_artifacts(OWNER, host.claim.job_id) == []
    assert core.storage.list("jobs") == []
    assert not host.workspace.marker(Step.PREPARE).exists()


def test_damaged_prepared_data_is_made_again_and_its_owner_told(
    core: CoreInstallation, begin: Callable[[], Host]
) -> None:
    first = begin()
    first.prepare("rows\n")
    first.publisher.publish_step(Step.PREPARE)
    damage(core.storage, core.jobs.get_artifact(OWNER, first.claim.job_id, "data/train.jsonl").storage_key)
    second = begin()
    second.restore()
    assert not second.workspace.marker(Step.PREPARE).exists()
    assert not second.workspace.train_data.exists()
    assert ["what prepare had made is damaged" in warning for warning in second.warnings] == [True]
    second.prepare("rows\n")
    second.publisher.publish_step(Step.PREPARE)
    assert read_artifact(core, first.claim.job_id, "data/train.jsonl") == b"rows\n"


def test_a_damaged_checkpoint_gives_way_to_the_one_before(core: CoreInstallation, begin: Callable[[], Host]) -> None:
    first = begin()
    for step in (10, 20, 30):
        first.save_checkpoint(step)
    stored = list_stored_checkpoints(core.storage, first.claim.job_id)
    assert [one.global_step for one in stored] == [20, 30]
    damage(core.storage, f"jobs/{first.claim.job_id}/checkpoints/1/checkpoint-30/state.json")
    second = begin()
    second.restore()
    assert second.checkpoints() == ["checkpoint-20"]
    assert ["checkpoint-30 is damaged" in warning for warning in second.warnings] == [True]


@pytest.mark.parametrize("file", ["checkpoint-10/state.json", "checkpoint-10.json"])
def test_without_a_sound_checkpoint_training_begins_at_its_start(
    core: CoreInstallation, begin: Callable[[], Host], file: str
) -> None:
    first = begin()
    first.save_checkpoint(10)
    damage(core.storage, f"jobs/{first.claim.job_id}/checkpoints/1/{file}")
    second = begin()
    second.restore()
    assert second.checkpoints() == []
    assert second.warnings[-1] == "no earlier checkpoint is whole: training begins at its start"


def test_a_finished_training_needs_no_checkpoints_any_more(core: CoreInstallation, begin: Callable[[], Host]) -> None:
    host = begin()
    host.save_checkpoint(10)
    host.train("weights")
    host.publisher.publish_step(Step.TRAIN)
    assert list_stored_checkpoints(core.storage, host.claim.job_id) == []
    assert read_artifact(core, host.claim.job_id, "adapter/adapter_model.safetensors") == b"weights"


def test_what_releases_without_attempts_in_their_keys_stored_is_found(
    core: CoreInstallation, begin: Callable[[], Host]
) -> None:
    first = begin()
    first.prepare("rows\n")
    first.save_checkpoint(10)
    root = f"jobs/{first.claim.job_id}"
    core.storage.put_file(first.workspace.train_data, f"{root}/artifacts/data/train.jsonl")
    core.storage.put_file(first.workspace.marker(Step.PREPARE), f"{root}/steps/prepare.json")
    for name in ("state.json", "COMPLETE"):
        local = first.workspace.outputs / "checkpoint-10" / name
        core.storage.put_file(local, f"{root}/checkpoints/checkpoint-10/{name}")
    core.storage.write(f"{root}/checkpoints/checkpoint-10.json", [b'{"files": ["state.json", "COMPLETE"]}'])
    core.storage.delete_prefix(f"{root}/checkpoints/1")
    second = begin()
    second.restore()
    assert second.workspace.train_data.read_text() == "rows\n"
    assert second.checkpoints() == ["checkpoint-10"]
    second.publisher.publish_step(Step.PREPARE)
    assert read_artifact(core, first.claim.job_id, "data/train.jsonl") == b"rows\n"


@pytest.mark.parametrize("what", ["upload", "artifact"])
def test_a_damaged_input_fails_the_job_with_its_own_code(core: CoreInstallation, tmp_path: Path, what: str) -> None:
    core.add_worker(slots=10)
    file = core.upload('{"messages": []}')
    if what == "upload":
        claim = core.claim_new(config={"dataset_key": "chat"}, training_file=file.id)
        damage(core.storage, file.storage_key)
    else:
        earlier = Host(core, tmp_path, core.claim_new())
        earlier.prepare("rows\n")
        earlier.publisher.publish_step(Step.PREPARE)
        core.jobs.finish(earlier.claim.job_id, 1, Outcome("succeeded"))
        claim = core.claim_new(steps=["train"], input_job=earlier.claim.job_id)
        damage(core.storage, core.jobs.get_artifact(OWNER, earlier.claim.job_id, "data/train.jsonl").storage_key)
    workspace = Workspace(tmp_path / "workspace")
    stager = InputStager(claim, workspace=workspace, storage=core.storage, settings=core.settings, check=lambda: None)
    with pytest.raises(InputDamagedError, match="is damaged in storage") as caught:
        stager.stage()
    assert (caught.value.code, caught.value.retryable) == ("artifact_damaged", False)
    assert [path for path in workspace.root.rglob("*") if path.is_file()] == []


def test_files_that_newer_ones_replaced_are_removed_a_day_later(
    core: CoreInstallation, begin: Callable[[], Host]
) -> None:
    from sqlalchemy import update

    from app.db.models import storage_removals
    from app.db.session import transaction

    first = begin()
    first.prepare("first\n")
    first.publisher.publish_step(Step.PREPARE)
    second = begin()
    second.prepare("second\n")
    second.publisher.publish_step(Step.PREPARE)
    old, new = (f"jobs/{first.claim.job_id}/artifacts/{attempt}/data/train.jsonl" for attempt in (1, 2))
    core.retention.remove_from_storage()
    assert core.storage.exists(old)
    with transaction(core.sessions) as connection:
        connection.execute(update(storage_removals).values(not_before=0.0))
    core.retention.remove_from_storage()
    assert (core.storage.exists(old), core.storage.exists(new)) == (False, True)
