"""What is old or deleted goes with everything that belongs to it, whatever fails meanwhile; what is needed stays."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Table, func, insert, select, update

from app.db.clock import db_now
from app.db.models import (
    artifacts,
    attempts,
    events,
    files,
    idempotency_keys,
    job_secrets,
    jobs,
    log_chunks,
    storage_removals,
    webhook_deliveries,
    webhooks,
    workers,
)
from app.db.session import snapshot, transaction
from app.files.repository import find_file
from app.jobs import removals
from app.jobs.commands import JobSubmission, NewArtifact, Outcome
from app.jobs.errors import FileNotFound, InvalidSubmission, JobNotFound
from app.retention.service import RetentionService
from tests.support.installation import CONFIG, OWNER, CoreInstallation
from worker.cleaning import CleaningThread
from worker.workspaces import make_workspace

DAY = 24 * 3600.0
TABLES_OF_JOBS = (jobs, attempts, events, artifacts, log_chunks, job_secrets, idempotency_keys, webhook_deliveries)


def keep(core: CoreInstallation, **settings: float) -> RetentionService:
    """A retention with these settings."""
    return RetentionService(
        core.sessions, storage=core.storage, settings=core.settings.model_copy(update=settings), clock=lambda: 0.0
    )


def count(core: CoreInstallation, table: Table) -> int:
    with snapshot(core.sessions) as connection:
        return connection.execute(select(func.count()).select_from(table)).scalar_one()


def set_column(core: CoreInstallation, table: Table, row_id: str, **values: object) -> None:
    with transaction(core.sessions) as connection:
        connection.execute(update(table).where(table.c.id == row_id).values(values))


def make_removals_due(core: CoreInstallation) -> None:
    with transaction(core.sessions) as connection:
        connection.execute(update(storage_removals).values(not_before=db_now() - 1))


def end_job(core: CoreInstallation, *, days_ago: float = 0.0, **fields: object) -> str:
    """A job with a row in every table and a file of every kind, which ended some days ago."""
    claim = core.claim_new(config={"huggingface_hub_token": "hf_secret"}, **fields)
    for kind in ("artifacts/1/data/a", "logs/1/1.log", "checkpoints/1/checkpoint-1.json", "steps/1/prepare.json"):
        core.storage.write(f"jobs/{claim.job_id}/{kind}", [b"x"])
    key = f"jobs/{claim.job_id}/artifacts/1/data/a"
    core.jobs.record_artifacts(claim.job_id, 1, [NewArtifact("data", "data/a", 1, "0" * 64, key)])
    core.jobs.record_log_chunk(
        claim.job_id, 1, first_line=1, num_lines=1, num_bytes=1, storage_key=f"jobs/{claim.job_id}/logs/1/1.log"
    )
    core.jobs.finish(claim.job_id, 1, Outcome("failed"))
    with transaction(core.sessions) as connection:
        values = {"key_id": "k", "nonce": b"n", "ciphertext": b"c", "created_at": 0.0}
        if not connection.execute(select(webhooks.c.id)).first():
            connection.execute(insert(webhooks).values(id="wh-1", owner=OWNER, url="http://x", events=[], **values))
        delivery = {"webhook_id": "wh-1", "type": "job.failed", "payload": "{}", "tries": 0, "created_at": 0.0}
        connection.execute(insert(webhook_deliveries).values(id=f"d-{claim.job_id}", job_id=claim.job_id, **delivery))
        ended = update(jobs).where(jobs.c.id == claim.job_id)
        connection.execute(ended.values(finished_at=db_now() - days_ago * DAY))
    return claim.job_id


@pytest.fixture(autouse=True)
def worker(core: CoreInstallation) -> None:
    core.add_worker(slots=100)


def test_a_job_is_kept_as_long_as_it_or_the_installation_says(core: CoreInstallation) -> None:
    old, new, longer, shorter = [end_job(core, days_ago=days) for days in (11, 9, 11, 2)]
    set_column(core, jobs, longer, keep_days=12.0)
    set_column(core, jobs, shorter, keep_days=1.0)
    keep(core, keep_days=10.0).sweep()
    left = {job.id for job in core.jobs.list(OWNER, after=None, limit=10).data}
    assert left == {new, longer}
    assert old not in left


def test_without_the_setting_only_jobs_that_ask_for_it_are_removed(core: CoreInstallation) -> None:
    kept, asked = end_job(core, days_ago=10_000), end_job(core, days_ago=2)
    set_column(core, jobs, asked, keep_days=1.0)
    keep(core).sweep()
    assert [job.id for job in core.jobs.list(OWNER, after=None, limit=10).data] == [kept]


@pytest.mark.parametrize("how", ["sweep", "delete"])
def test_a_removed_job_leaves_nothing_in_database_or_storage(core: CoreInstallation, how: str) -> None:
    job_id = end_job(core, days_ago=11)
    with transaction(core.sessions) as connection:
        values = {"owner": OWNER, "key": "k", "fingerprint": "f", "job_id": job_id, "created_at": db_now()}
        connection.execute(insert(idempotency_keys).values(values))
    assert all(count(core, table) > 0 for table in TABLES_OF_JOBS)
    retention = keep(core, keep_days=10.0)
    if how == "sweep":
        retention.sweep()
    else:
        core.jobs.delete(OWNER, job_id)
    retention.remove_from_storage()
    assert {table.name: count(core, table) for table in TABLES_OF_JOBS} == {table.name: 0 for table in TABLES_OF_JOBS}
    assert core.storage.list("jobs") == []
    with pytest.raises(JobNotFound):
        core.jobs.get(OWNER, job_id)


def test_what_a_straggler_writes_for_a_removed_job_is_removed_a_day_later(core: CoreInstallation) -> None:
    job_id = end_job(core)
    core.jobs.delete(OWNER, job_id)
    retention = keep(core)
    retention.remove_from_storage()
    core.storage.write(f"jobs/{job_id}/artifacts/1/data/late", [b"x"])
    retention.remove_from_storage()
    assert core.storage.list("jobs") == [f"jobs/{job_id}/artifacts/1/data/late"]
    make_removals_due(core)
    retention.remove_from_storage()
    assert (core.storage.list("jobs"), count(core, storage_removals)) == ([], 0)


def test_a_job_that_an_unfinished_one_goes_on_from_is_kept_until_that_has_ended(core: CoreInstallation) -> None:
    needed = end_job(core, days_ago=11)
    following = core.submit(steps=["train"], input_job=needed)
    retention = keep(core, keep_days=10.0)
    retention.sweep()
    assert core.jobs.get(OWNER, needed).id == needed
    core.jobs.cancel(OWNER, following.id)
    retention.sweep()
    with pytest.raises(JobNotFound):
        core.jobs.get(OWNER, needed)


def test_unfinished_jobs_are_kept_however_old(core: CoreInstallation) -> None:
    waiting, running = core.submit(), core.claim_new()
    for job_id in (waiting.id, running.job_id):
        set_column(core, jobs, job_id, created_at=0.0, keep_days=0.0)
    keep(core, keep_days=0.0).sweep()
    assert len(core.jobs.list(OWNER, after=None, limit=10).data) == 2


def test_a_round_is_bounded_and_says_that_there_is_more(core: CoreInstallation) -> None:
    for _ in range(12):
        end_job(core, days_ago=11)
    retention = keep(core, keep_days=10.0)
    assert retention.sweep()
    assert count(core, jobs) == 2
    assert not retention.sweep()
    assert count(core, jobs) == 0


def test_several_copies_remove_everything_once(core: CoreInstallation) -> None:
    for _ in range(13):
        end_job(core, days_ago=11)
    copies = [keep(core, keep_days=10.0) for _ in range(4)]

    def work(copy: RetentionService) -> None:
        while copy.sweep() or count(core, jobs):
            pass
        while core.storage.list("jobs"):
            copy.remove_from_storage()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, copies))
    assert (count(core, jobs), core.storage.list("jobs")) == (0, [])


def test_files_that_no_kept_job_refers_to_are_removed_after_their_days(core: CoreInstallation) -> None:
    used, unused, new = core.upload(), core.upload(), core.upload()
    for file in (used, unused):
        set_column(core, files, file.id, created_at=0.0)
    job_id = end_job(core, days_ago=1, training_file=used.id)
    retention = keep(core, keep_files_days=10.0)
    retention.sweep()
    retention.remove_from_storage()
    assert {file.id for file in core.files.list(OWNER, after=None, limit=10).data} == {used.id, new.id}
    assert core.storage.list("files") == sorted([used.storage_key, new.storage_key])
    core.jobs.delete(OWNER, job_id)
    retention.sweep()
    with pytest.raises(FileNotFound):
        core.files.get(OWNER, used.id)


def test_files_are_kept_for_ever_without_the_setting(core: CoreInstallation) -> None:
    set_column(core, files, core.upload().id, created_at=0.0)
    keep(core, keep_days=1.0).sweep()
    assert count(core, files) == 1


class AwayStorage:
    """A storage of which every removal fails."""

    def delete_prefix(self, prefix: str) -> None:
        raise OSError("away")

    delete = delete_prefix

    def remove_unfinished_uploads(self, *, older_than_seconds: float) -> int:
        raise OSError("away")


def test_a_storage_that_is_away_when_things_are_deleted_loses_them_later(
    core: CoreInstallation, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, file = end_job(core), core.upload()
    away = AwayStorage()
    with monkeypatch.context() as patch:
        # The services hold one storage; its methods fail as those of a store that does not answer.
        for name in ("delete", "delete_prefix", "remove_unfinished_uploads"):
            patch.setattr(core.storage, name, getattr(away, name))
        core.jobs.delete(OWNER, job_id)
        core.files.delete(OWNER, file.id)
        retention = keep(core)
        retention.remove_from_storage()
        retention.sweep()
    assert core.storage.exists(file.storage_key)
    retention.remove_from_storage()
    assert core.storage.exists(file.storage_key), "it is asked again after a pause"
    make_removals_due(core)
    retention.remove_from_storage()
    assert (core.storage.list("jobs"), core.storage.list("files"), count(core, storage_removals)) == ([], [], 0)


def test_who_claims_a_removal_and_dies_leaves_it_to_others(core: CoreInstallation) -> None:
    file = core.upload()
    with transaction(core.sessions) as connection:
        removals.schedule_removal(connection, file.storage_key)
        claimed = removals.claim_due_removals(connection, limit=5)
        assert [one.storage_key for one in claimed] == [file.storage_key]
        assert removals.claim_due_removals(connection, limit=5) == []
        assert not removals.has_due_removals(connection)
    make_removals_due(core)
    keep(core).remove_from_storage()
    assert not core.storage.exists(file.storage_key)


def test_an_upload_that_dies_leaves_its_bytes_for_a_day_at_most(core: CoreInstallation) -> None:
    class PowerCut(BaseException):
        pass

    def rows() -> Iterator[bytes]:
        yield b'{"text": "a"}\n'
        with snapshot(core.sessions) as connection:
            (key,) = connection.execute(select(storage_removals.c.storage_key)).scalars()
        # What a store keeps of an upload whose process is killed.
        core.storage.write(key, [b"half"])
        raise PowerCut

    with pytest.raises(PowerCut):
        core.files.create(OWNER, "rows.jsonl", "fine-tune", rows())
    assert len(core.storage.list("files")) == 1
    keep(core).remove_from_storage()
    assert len(core.storage.list("files")) == 1, "another upload of a day's length would still be going on"
    make_removals_due(core)
    keep(core).remove_from_storage()
    assert (core.storage.list("files"), count(core, storage_removals)) == ([], 0)


def test_an_upload_that_ends_well_leaves_no_removal(core: CoreInstallation) -> None:
    file = core.upload()
    assert count(core, storage_removals) == 0
    with snapshot(core.sessions) as connection:
        assert find_file(connection, file.id, owner=OWNER) is not None


def test_an_upload_that_outlives_its_day_is_refused_and_not_half_removed(core: CoreInstallation) -> None:
    def rows() -> Iterator[bytes]:
        yield b'{"text": "a"}\n'
        make_removals_due(core)
        with transaction(core.sessions) as connection:
            assert len(removals.claim_due_removals(connection, limit=1)) == 1

    with pytest.raises(OSError, match="took too long"):
        core.files.create(OWNER, "rows.jsonl", "fine-tune", rows())
    keep(core).remove_from_storage()
    assert (count(core, files), core.storage.list("files"), count(core, storage_removals)) == (0, [], 0)


def test_a_refused_upload_leaves_nothing(core: CoreInstallation) -> None:
    with pytest.raises(InvalidSubmission):
        core.upload("no json")
    keep(core).remove_from_storage()
    assert (core.storage.list("files"), count(core, storage_removals)) == ([], 0)


def test_old_idempotency_keys_and_departed_workers_are_forgotten(core: CoreInstallation) -> None:
    for key in ("old", "new"):
        core.jobs.submit(OWNER, JobSubmission(config=CONFIG), idempotency_key=key)
    file = core.files.create(OWNER, "a", "fine-tune", [b'{"text": "a"}\n'], idempotency_key="upload")
    busy = core.claim_new(worker_id="wrk-1")
    core.add_worker("wrk-gone")
    core.add_worker("wrk-busy")
    with transaction(core.sessions) as connection:
        old = update(idempotency_keys).where(idempotency_keys.c.key == "old")
        connection.execute(old.values(created_at=db_now() - 8 * DAY))
        connection.execute(update(files).values(created_at=db_now() - 8 * DAY))
        connection.execute(update(workers).where(workers.c.id != "wrk-busy").values(last_seen_at=db_now() - 31 * DAY))
    keep(core).sweep()
    with snapshot(core.sessions) as connection:
        assert list(connection.execute(select(idempotency_keys.c.key)).scalars()) == ["new"]
        assert sorted(connection.execute(select(workers.c.id)).scalars()) == ["wrk-1", "wrk-busy"]
        assert connection.execute(select(files.c.idempotency_key).where(files.c.id == file.id)).scalar() is None
    assert core.jobs.get(OWNER, busy.job_id).status == "running"


def test_a_sweep_comes_about_once_an_hour(core: CoreInstallation) -> None:
    now = [0.0]
    settings = core.settings.model_copy(update={"keep_days": 10.0})
    retention = RetentionService(core.sessions, storage=core.storage, settings=settings, clock=lambda: now[0])
    now[0] = 61.0
    retention.sweep_if_due()
    end_job(core, days_ago=11)
    now[0] += 3000.0
    retention.sweep_if_due()
    assert count(core, jobs) == 1
    now[0] += 1000.0
    retention.sweep_if_due()
    assert count(core, jobs) == 0


def test_a_host_removes_workspaces_of_jobs_that_ended_elsewhere_or_were_deleted(core: CoreInstallation) -> None:
    running, ended, deleted = core.claim_new().job_id, end_job(core), end_job(core)
    core.jobs.delete(OWNER, deleted)
    for job_id in (running, ended, deleted):
        workspace = make_workspace(core.settings, job_id=job_id, attempt=1)
        (workspace.root / "big").write_bytes(b"x")
    cleaning = CleaningThread(core.settings, find_unfinished=core.jobs.find_unfinished)
    assert cleaning.clean() == [], "all are in use, or a retry is likely"
    assert cleaning.clean(idle_seconds=0.0) == sorted([ended, deleted])
    assert [path.name for path in (core.settings.data_dir / "workspaces").iterdir()] == [running]
